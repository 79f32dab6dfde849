"""Test the tests by mutation: change one operator, constant or statement at a time, and see whether a test fails.

    python scripts/mutation.py [MODULE ...] [--sample 12] [--minutes 15] [--seed 0] [--again] [--survivors]

For each module, the script copies the whole tree to a temporary folder. It mutates the module there, and tests it only
with its own test files. A seed determines the sample of mutants. Verdicts are appended to `.mutation/verdicts.jsonl`. A
second call continues where the first one stopped. After you have added assertions, `--again` tests the survivors once
more. `--survivors` only lists them. A mutant is equivalent if no caller can see the difference.
`scripts/mutation_equivalents.txt` lists the equivalent mutants.

Every test run is a fork of this process. This process has already imported torch, so testing a mutant
takes half as long as in a new process.
"""

import argparse
import ast
import copy
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
VERDICTS = ROOT / ".mutation" / "verdicts.jsonl"
EQUIVALENTS = ROOT / "scripts" / "mutation_equivalents.txt"

TESTS = {
    "retrain/recipe/speed_up.py": ["recipe/test_speed_up.py"],
    "retrain/recipe/schedule.py": ["recipe/test_schedule.py"],
    "retrain/recipe/sampling.py": ["recipe/test_sampling.py", "recipe/test_shuffle.py"],
    "retrain/recipe/initialization.py": ["recipe/test_initialization.py", "training/test_head.py"],
    "retrain/recipe/objective.py": ["recipe/test_objective.py", "recipe/test_comparison_methods.py"],
    "retrain/recipe/learning_speed.py": ["recipe/test_learning_speed.py", "recipe/test_sampling.py"],
    "retrain/recipe/averaging.py": ["recipe/test_averaging.py"],
    "retrain/recipe/batchnorm.py": ["recipe/test_batchnorm.py"],
    "retrain/recipe/start.py": ["recipe/test_start.py"],
    "retrain/pipeline/planning.py": ["pipeline/test_planning.py", "pipeline/test_targets.py"],
    "retrain/pipeline/targets.py": ["pipeline/test_targets.py", "pipeline/test_planning.py"],
    "retrain/pipeline/gate.py": ["pipeline/test_gate.py"],
    "retrain/pipeline/accounting.py": ["pipeline/test_accounting.py"],
    "retrain/training/stopping.py": ["training/test_stopping.py", "training/test_evaluation.py"],
    "retrain/records/ledger.py": ["pipeline/test_accounting.py", "store/test_ledger.py"],
    "retrain/store/ledger.py": ["store/test_ledger.py"],
}

PRELOADED = (
    "torch",
    "torchvision",
    "numpy",
    "pydantic",
    "boto3",
    "safetensors.torch",
    "moto.server",
    "webdataset",
    "pytest",
)
"""Packages that this process imports once for all of its forks. None of them belongs to retrain."""

SLACK = 30
"""Seconds of processor time that a mutant's tests may take beyond five times the time of the unchanged module.

It is processor time, because a busy machine must not kill a mutant. Pytest's own timeout ends tests that wait forever.
"""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor", "sorted": "list"}


class Mutant(NamedTuple):
    """One change of a module: its line, the old and the new code, and the source of the changed module."""

    change: str
    source: str


def main() -> None:
    """Test a sample of mutants of every module, or list the survivors. Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modules", nargs="*", help="modules to mutate (default: all modules of TESTS)")
    parser.add_argument("--sample", type=int, default=12, help="number of mutants of each module")
    parser.add_argument("--minutes", type=float, default=15, help="time limit of this call, in minutes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--again", action="store_true", help="test the survivors once more")
    parser.add_argument("--survivors", action="store_true", help="list the survivors and test nothing")
    options = parser.parse_args()
    modules = options.modules or list(TESTS)
    if not options.survivors:
        for name in PRELOADED:
            importlib.import_module(name)
        ends = time.monotonic() + 60 * options.minutes
        for position, module in enumerate(modules):
            now = time.monotonic()
            test_module(module, options, now + (ends - now) / (len(modules) - position))
    report(modules)


def test_module(module: str, options: argparse.Namespace, ends: float) -> None:
    """Test a sample of one module's mutants until `ends`, a time of the monotonic clock."""
    skipped = equivalents()
    known = {
        verdict["mutant"]: verdict["survived"] and f"{module} {verdict['mutant']}" not in skipped
        for verdict in verdicts(module)
    }
    sample = draw_sample(module, options.sample, options.seed)
    wanted = [each for each in sample if (known.get(each.change) if options.again else each.change not in known)]
    if not wanted:
        return
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        start = processor_seconds()
        if run_tests(tree, module, 600):
            sys.exit(
                f"{module}: its tests fail without a mutant; fix them first:\n{(tree / 'log').read_text()[-3000:]}"
            )
        limit = int(5 * (processor_seconds() - start)) + SLACK
        sys.dont_write_bytecode = True
        for cached in (tree / module).parent.glob(f"__pycache__/{Path(module).stem}.*"):
            cached.unlink()
        for mutant in wanted:
            if time.monotonic() > ends:
                break
            (tree / module).write_text(mutant.source)
            survived = not run_tests(tree, module, limit)
            keep_verdict(module, mutant, survived)
            print(f"{'SURVIVED' if survived else 'killed':8} {module} {mutant.change}", flush=True)
        sys.dont_write_bytecode = False


def copy_tree(target: Path) -> None:
    """Copy the tracked and new files of the working tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def processor_seconds() -> float:
    """Return the processor time of the ended forks of this process."""
    times = os.times()
    return times.children_user + times.children_system


def run_tests(tree: Path, module: str, limit: int) -> bool:
    """Run a module's tests in a fork, and return whether they failed or exceeded the processor time."""
    process = os.fork()
    if not process:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        log = os.open(tree / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        failed = run_pytest(tree, TESTS[module])
        sys.stdout.flush()
        os._exit(failed)
    return os.waitpid(process, 0)[1] != 0


def run_pytest(tree: Path, tests: list[str]) -> int:
    """Run pytest within the copied tree, in this process, and return its exit code."""
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path or ".").resolve() != ROOT.resolve())]
    pytest = importlib.import_module("pytest")
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-n", "0", "--durations=0", "--durations-min=60", "-k", "not s3"]
    try:
        return int(pytest.main([*arguments, *(f"tests/{name}" for name in tests)]))
    except BaseException as error:
        print(f"pytest itself failed: {error!r}")
        return 1


def draw_sample(module: str, size: int, seed: int) -> list[Mutant]:
    """Return a random sample of a module's mutants. The seed determines the sample."""
    everything = [*mutants((ROOT / module).read_text())]
    random.Random(f"{seed} {module}").shuffle(everything)
    return everything[:size]


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module's source."""
    tree = ast.parse(source)
    for position, node in enumerate(_mutable(tree)):
        for number in range(len(_changes(node))):
            changed = copy.deepcopy(tree)
            twin = next(islice(_mutable(changed), position, None))
            what, change = _changes(twin)[number]
            line = getattr(what, "lineno", getattr(node, "lineno", 0))
            before = ast.unparse(what)
            change()
            after = "removed" if isinstance(what, ast.stmt) and what is not twin else ast.unparse(what)
            differing = f"{_shorten(before)} -> {_shorten(after)}"
            yield Mutant(f"{line}: {differing} [{position}.{number}]", ast.unparse(changed))


def _shorten(text: str) -> str:
    return text.strip().split("\n")[0][:90]


def _mutable(node: ast.AST) -> Iterator[Any]:
    """Yield the nodes of a tree that may change, without docstrings, annotations, imports and the names of types."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_exempt(node, child):
                yield child
                yield from _mutable(child)


def _is_exempt(parent: ast.AST, node: ast.AST) -> bool:
    """Return whether a node is never changed: an import, a docstring, a text, a type alias, `strict=True`."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr):
        return True
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    return isinstance(parent, ast.Assign) and isinstance(node, ast.Subscript) and node is parent.value


def _changes(node: Any) -> list[tuple[Any, Callable[[], None]]]:  # noqa: C901  # one flat table
    """Return every single change of a node: the changed node, and a function that changes it in place."""
    found: list[tuple[Any, Callable[[], None]]] = []
    match node:
        case ast.Compare():
            found.append((node, lambda: node.ops.__setitem__(0, _swap(node.ops[0]))))
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in SWAPS:
            found.append((node, lambda: setattr(node, "op", _swap(node.op))))
        case ast.UnaryOp(op=ast.Not()):
            found.append((node, lambda: setattr(node, "operand", _negate(node.operand))))
        case ast.UnaryOp():
            found.append((node, lambda: setattr(node, "op", ast.UAdd())))
        case ast.IfExp() | ast.While():
            found.append((node, lambda: setattr(node, "test", _negate(node.test))))
        case ast.comprehension(ifs=[_, *_]):
            found.append((node.target, lambda: node.ifs.__setitem__(0, _negate(node.ifs[0]))))
        case ast.Constant(value=bool() | int() | float()):
            found.append((node, lambda: setattr(node, "value", _other_value(node))))
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            found.append((node, lambda: setattr(node.func, "id", CALLS[name])))
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            found.append((node, lambda: setattr(node, "value", ast.Constant(None))))
        case ast.If():
            found.append((node, lambda: setattr(node, "test", _negate(node.test))))
    if isinstance(node, ast.FunctionDef | ast.If | ast.For | ast.With):
        found += [
            (each, _removal(node.body, position)) for position, each in enumerate(node.body) if _is_removable(each)
        ]
    return found


def _removal(body: list[ast.stmt], position: int) -> Callable[[], None]:
    return lambda: body.__setitem__(position, ast.Pass())


def _negate(condition: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), condition)


def _is_removable(statement: ast.stmt) -> bool:
    is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Expr | ast.AugAssign | ast.Raise) and not is_docstring


def _swap(operator: ast.AST) -> Any:
    return SWAPS[type(operator)]()


def _other_value(constant: Any) -> bool | int | float:
    value: bool | int | float = constant.value
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 2 or 1.0


def verdicts(module: str) -> list[dict[str, Any]]:
    """Return the newest verdict on each mutant of a module, and whether the mutant survived its first test."""
    digest = _digest(module)
    newest: dict[str, dict[str, Any]] = {}
    for line in VERDICTS.read_text().splitlines() if VERDICTS.exists() else ():
        verdict = json.loads(line)
        if (verdict["module"], verdict["digest"]) == (module, digest):
            first = newest.get(verdict["mutant"], verdict)
            newest[verdict["mutant"]] = verdict | {"survived_first": first.get("survived_first", first["survived"])}
    return list(newest.values())


def keep_verdict(module: str, mutant: Mutant, survived: bool) -> None:
    """Append a verdict to the file of verdicts."""
    VERDICTS.parent.mkdir(exist_ok=True)
    with VERDICTS.open("a") as file:
        verdict = {"module": module, "digest": _digest(module), "mutant": mutant.change, "survived": survived}
        file.write(json.dumps(verdict) + "\n")


def _digest(module: str) -> str:
    return hashlib.sha256((ROOT / module).read_bytes()).hexdigest()[:16]


def equivalents() -> set[str]:
    """Return the mutants that no caller can distinguish from the original code."""
    return set(EQUIVALENTS.read_text().splitlines())


def report(modules: list[str]) -> None:
    """Print the survivors. For every module, print how many mutants were killed in the first and in the last test."""
    skipped = equivalents()
    print(f"\n{'module':40} {'sampled':>8} {'killed first':>13} {'killed now':>11} {'equivalent':>11}")
    totals = [0, 0, 0, 0]
    survivors = []
    for module in modules:
        found = verdicts(module)
        left = [f"{module} {verdict['mutant']}" for verdict in found if verdict["survived"]]
        survivors += [each for each in left if each not in skipped]
        row = [
            len(found),
            sum(not verdict["survived_first"] for verdict in found),
            sum(not verdict["survived"] for verdict in found),
            sum(each in skipped for each in left),
        ]
        totals = [one + other for one, other in zip(totals, row, strict=True)]
        print(f"{module:40} {row[0]:8} {row[1]:13} {row[2]:11} {row[3]:11}")
    print(f"{'all':40} {totals[0]:8} {totals[1]:13} {totals[2]:11} {totals[3]:11}")
    print("\n".join(["", "survivors:", *(survivors or ["none"])]))


if __name__ == "__main__":
    main()
