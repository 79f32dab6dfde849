"""Write docs/messages.md: all errors, warnings, log lines and results, read from the source code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = ("retrain", "pipelines")
HEADER = """# Messages

This page is for people who look up a message, and for contributors who write a new one. `make docs` generates this page
from the source code. Words in braces stand for values or for parts of the sentence. To find a message, search for the
words around them. The options are in [cli.md](cli.md), the settings in `retrain task schema`, and the alerts in
[operations.md](operations.md#alerts).

- An **error** ends a command with exit code 2 and one message. A watcher logs the error and continues. A server
  sends it as its answer. If a drop is quarantined, its report contains the error.
- A **result** is printed on standard output, or it is the reason in a plan, a record or a report.
- A **log** line goes to standard error.
"""
LOG_METHODS = frozenset({"debug", "info", "warning", "error", "exception"})
PRINTERS = frozenset({"echo", "print_comment", "confirm"})
RESULTS = frozenset({"NoRunNeeded", "Unmet", "TriggerState", "Decision", "Advice", "Finding"})
"""Types whose first or second argument is a sentence for people."""
BUILT_IN = frozenset({"ValueError", "SystemExit", "PydanticCustomError"})
"""Other exceptions that people see: a problem in a task file, and the failure of a pipeline step."""
LEAST_WORDS, LEAST_SENTENCE = 2, 4
"""Least number of words apart from values: in any message, and in a sentence that a function returns or yields."""
SENTENCES = ("retrain/pipeline", "retrain/doctor", "retrain/store", "retrain/data", "retrain/config", "retrain/records")
"""Packages whose functions return or yield sentences for people: reasons, warnings and notes."""


class Message(NamedTuple):
    """A message: its file, its kind (error, result or log), and its text."""

    path: str
    kind: str
    text: str


def page(root: Path = ROOT) -> str:
    """Return the page: a section for each package, with its messages in the order of the source."""
    errors = error_classes(root) | BUILT_IN
    found = dict.fromkeys(message for path in sources(root) for message in read_messages(path, root, errors))
    lines = [HEADER]
    title = ""
    for path, kind, text in found:
        package = str(Path(path).parent)
        if package != title:
            title = package
            lines.append(f"## {title}\n")
        lines.append(f"- {kind}: {_as_code(text)}")
    return "\n".join(_with_blank_lines(lines)) + "\n"


def _with_blank_lines(lines: list[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number and line.startswith("## ") and lines[number - 1].startswith("- "):
            yield ""
        yield line


def _as_code(text: str) -> str:
    """Return a text as Markdown code. If the text has backticks, it needs double backticks."""
    if "`" not in text:
        return f"`{text}`"
    return f"``{' ' * text.startswith('`')}{text}{' ' * text.endswith('`')}``"


def sources(root: Path) -> list[Path]:
    """Return the source files by package and name, without the template of task files."""
    found = (path for package in PACKAGES for path in (root / package).rglob("*.py") if path.name != "template.py")
    return sorted(found, key=lambda path: (str(path.parent), path.name))


def error_classes(root: Path) -> set[str]:
    """Return the names of `UserError` and all classes derived from it."""
    bases = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for path in sources(root)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    known = {"UserError"}
    while new := {name for name, own in bases.items() if own & known} - known:
        known |= new
    return known


def read_messages(path: Path, root: Path, errors: set[str]) -> Iterator[Message]:
    """Yield the messages of a file in their order. `errors` has the names of exceptions that people see."""
    name, found = str(path.relative_to(root)), list[tuple[int, Message]]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=function, args=arguments, keywords=keywords) if kind := _kind(function, errors):
                values, least = [*arguments, *(keyword.value for keyword in keywords)], LEAST_WORDS
            case ast.Return(value=ast.expr() as value) | ast.Yield(value=ast.expr() as value) if name.startswith(
                SENTENCES
            ):
                values = value.elts if isinstance(value, ast.Tuple) else [value]
                kind, least = "result", LEAST_SENTENCE
            case _:
                continue
        texts = filter(None, map(template, values))
        found += [(node.lineno, Message(name, kind, text)) for text in texts if count_words(text) >= least]
    yield from (message for _, message in sorted(found))


def _kind(function: ast.expr, errors: set[str]) -> str:
    """Return the kind of message in the arguments of a function call, or an empty text."""
    owner, _, called = ast.unparse(function).rpartition(".")
    if called in errors:
        return "error"
    if called in LOG_METHODS:
        return "log" if owner.lower().endswith(("log", "logger")) else ""
    return "result" if called in PRINTERS or called in RESULTS else ""


def count_words(text: str) -> int:
    """Return the number of words of a template, without its values."""
    return len(re.findall(r"(?<![\w.])[A-Za-z]{2,}(?![\w.])", re.sub(r"\{[^}]*\}|%[sd]|%\.\df", "", text)))


def template(node: ast.expr) -> str | None:
    """Return the text of an expression with its values as `{name}`. Return None if it is not a text."""
    match node:
        case ast.Constant(value=str() as text):
            return " ".join(text.split())
        case ast.JoinedStr():
            return " ".join("".join(map(_part, node.values)).split())
        case ast.BinOp(op=ast.Add()):
            parts = template(node.left), template(node.right)
            return " ".join(part for part in parts if part) if any(parts) else None
        case ast.IfExp():
            choices = template(node.body), template(node.orelse)
            return " / ".join(choice for choice in choices if choice) if any(choices) else None
    return None


def _part(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else f"{{{_value_name(node)}}}"


def _value_name(node: ast.AST) -> str:
    """Return a short name for a value: its variable, its attribute, or the last argument of a call."""
    match node:
        case ast.FormattedValue(value=value):
            return _value_name(value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_")
        case ast.Call(func=ast.Name(id="pluralize"), args=[_, ast.Constant(value=str() as noun)]):
            return f"number of {noun}{'es' if noun.endswith('s') else 's'}"
        case ast.Call(func=ast.Name(id="len"), args=[argument]):
            return f"number of {_value_name(argument)}"
        case ast.Call(args=[*_, last]):
            return _value_name(last)
        case ast.Call(func=function):
            return _value_name(function)
        case ast.BoolOp(values=[first, *_]) | ast.IfExp(body=first) | ast.Subscript(value=first):
            return _value_name(first)
        case ast.UnaryOp(operand=operand) | ast.BinOp(left=operand) | ast.GeneratorExp(elt=operand):
            return _value_name(operand)
    return "value"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
