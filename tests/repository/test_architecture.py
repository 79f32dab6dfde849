"""Rules of the code: directions of imports, fast start-up, forbidden calls, and lengths of files."""

import ast
import pkgutil
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import retrain

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("retrain", "pipelines", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
MODULES = sorted(module.name for module in pkgutil.walk_packages(retrain.__path__, "retrain."))

PURE = ("retrain.recipe", "retrain.training", "retrain.data", "retrain.models")
OUTSIDE = {"boto3", "kfp", "kubernetes", "typer", "prometheus_client"}
LIGHT = ("retrain.config", "retrain.records")
UNPICKLERS = {
    "pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "torch.load",
    "torch.save",
    "torch.package",
    "webdataset.autodecode",
    "webdataset.decode",
    "yaml.full_load",
    "yaml.unsafe_load",
}


def within(packages: tuple[str, ...]) -> list[str]:
    """Return the names of these packages and of all modules in them."""
    return [name for name in MODULES if any(f"{name}.".startswith(f"{package}.") for package in packages)]


def loaded_by(modules: list[str]) -> set[str]:
    """Return the top-level packages that a new process has loaded after it imports the modules."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return set(process.stdout.split())


def names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module imports, their packages, and the dotted attributes that it uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in (alias.name, alias.name.partition(".")[0]))
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                node.module,
                node.module.partition(".")[0],
                *(f"{node.module}.{name.name}" for name in node.names),
            )
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def test_recipe_training_data_and_models_import_no_services() -> None:
    assert {"retrain.recipe", "retrain.training", "retrain.data", "retrain.models"} <= set(within(PURE))
    assert loaded_by(within(PURE)) & OUTSIDE == set()


def test_tasks_and_records_load_without_torch() -> None:
    loaded = loaded_by(within(LIGHT))
    assert "pydantic" in loaded
    assert loaded & {"torch", "torchvision", "webdataset"} == set()


def test_packing_loads_without_torch() -> None:
    loaded = loaded_by(["retrain.data.packing", "retrain.data.uploads"])
    assert "PIL" in loaded
    assert loaded & {"torch", "torchvision", "webdataset"} == set()


WHOLE_RUN = """
import sys, torch
import retrain.pipeline.evaluate, retrain.pipeline.stages, retrain.pipeline.train
from retrain.config.optimizers import Adam
from retrain.config.task import Model
from retrain.models import factory
from retrain.models.flops import count_flops
from retrain.training import optimizers

factory.check_network(Model(options={"width": 4}), 3, 8)
network = factory.build_network(Model(options={"width": 4}), 3, 8, seed=0)
optimizer = optimizers.build_optimizer(Adam(), network.parameters())
torch.autograd.backward(network(torch.zeros(2, 3, 8, 8)).mean() * torch.ones(()))
optimizer.step()
count_flops(network, 8)
print(*sys.modules)
"""


def test_gc_loads_neither_torch_nor_numpy() -> None:
    loaded = loaded_by(["retrain.cli.gc", "retrain.pipeline.retention", "retrain.pipeline.cache_retention"])
    assert loaded & {"torch", "numpy", "PIL", "boto3"} == set()


def test_run_imports_neither_torchs_compiler_nor_torchvision() -> None:
    process = subprocess.run([sys.executable, "-c", WHOLE_RUN], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(process.stdout.split())
    assert "retrain.training.loop" in loaded
    assert loaded & {"torch._dynamo", "torch.fx.experimental.symbolic_shapes", "sympy", "torchvision", "boto3"} == set()


HELP = """
import sys
from retrain.cli import main
try:
    main()
finally:
    print("LOADED", *sys.modules)
"""


def test_help_loads_neither_torch_nor_pydantic() -> None:
    command = [sys.executable, "-c", HELP, "--help"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said, _, loaded = process.stdout.partition("LOADED")
    assert "Keep image classifiers up to date" in said
    assert "retrain.cli.run" in loaded.split()
    assert set(loaded.split()) & {"torch", "pydantic"} == set()


def test_help_takes_less_than_a_second() -> None:
    """Measure processor time, because other processes affect it little. It is about 0.3 s on an idle machine."""
    command = [sys.executable, "-c", "from retrain.cli import main; main()", "--help"]
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert UNPICKLERS & set(names(tree)) == set()
    assert "allow_pickle" not in {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}


FILES = sorted(
    path
    for path in ROOT.glob("[!.]*/**/*.py")  # not .venv, which has 20,000 files
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
FEW_LINES = {
    "__init__.py": "describes a package",
    "__main__.py": "starts a package",
    "conf.py": "Sphinx prescribes it",
}
"""Names of files that may have fewer than 40 lines, with the reasons."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_files_have_40_to_400_lines(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 400
    assert lines >= 40 or path.name in FEW_LINES


TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_test_names_are_unique_and_at_most_60_characters(path: Path) -> None:
    """A second test with the same name in a file would silently replace the first."""
    named = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    tests = [name for name in named if name.startswith("test_")]
    assert [name for name in tests if len(name) > 60] == []
    assert len(tests) == len(set(tests))
