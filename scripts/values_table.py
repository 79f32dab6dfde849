"""Write the chart's README: a table of all values, made from `values.yaml` and its comments.

helm-docs 1.14.2 cannot replace this script: it needs Go. It writes each section that has a comment as one row with all
its values as JSON, and omits the values of such a section that have no comment (67 rows instead of 155).
"""

from collections.abc import Iterator
from typing import NamedTuple

import yaml

HEAD = """# The Helm chart of retrain

This page is for platform engineers. [docs/operations.md](../../docs/operations.md#install) explains the
installation, and `ci/` has a values file for each feature. `make manifests` generates this page from `values.yaml`.
"""
UNCOMMENTED = {
    "create": "Create a service account.",
    "enabled": "Install this component or object.",
    "repository": "The image's name.",
    "interval": "Time between scrapes.",
    "replicas": "Number of pods.",
    "nameOverride": "Replaces the chart's name in the names of objects.",
    "fullnameOverride": "Replaces the release's and the chart's name in the names of objects.",
}
"""Meanings of values that have no comment and that Kubernetes does not define."""


class Value(NamedTuple):
    """A value of the chart, or a section of values."""

    path: str
    default: str
    """Default as YAML on one line. It is empty for a section."""
    comment: str

    @property
    def section(self) -> str:
        """Return the value's top-level key. It is empty for a value at the top level."""
        top, _, below = self.path.partition(".")
        return top if below or not self.default else ""


def chart_page(text: str) -> str:
    """Return the README of a chart whose `values.yaml` is `text`."""
    values = list(read_values(text))
    parts = [HEAD, *_table([value for value in values if not value.section])]
    for section in dict.fromkeys(value.section for value in values if value.section):
        inside = [value for value in values if value.section == section]
        own = next((value.comment for value in inside if value.path == section), "")
        parts += ["", f"## {section}", *([own, ""] if own else [])]
        parts += _table([value for value in inside if value.default or (value.comment and value.path != section)])
    return "\n".join(parts) + "\n"


def _table(values: list[Value]) -> Iterator[str]:
    yield "| value | default | meaning |"
    yield "| --- | --- | --- |"
    for value in values:
        meaning = value.comment or UNCOMMENTED.get(value.path.rpartition(".")[2], "As in Kubernetes.")
        default = f"`{value.default}`" if value.default else ""
        yield f"| `{value.path}` | {default} | {meaning.replace('|', chr(92) + '|')} |"


def read_values(text: str) -> Iterator[Value]:
    """Yield the values and sections of a values file in order, each with the comment above it."""
    yield from _read(yaml.compose(text), text.splitlines(), "")


def _read(node: yaml.Node | None, lines: list[str], prefix: str) -> Iterator[Value]:
    assert isinstance(node, yaml.MappingNode)
    for key, value in node.value:
        path, comment = f"{prefix}{key.value}", _comment_above(lines, key.start_mark.line)
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield Value(path, "", comment)
            yield from _read(value, lines, f"{path}.")
        else:
            start, end = value.start_mark.index, value.end_mark.index
            yield Value(path, " ".join(value.start_mark.buffer[start:end].split()), comment)


def _comment_above(lines: list[str], number: int) -> str:
    comment: list[str] = []
    while number and (line := lines[number - 1].strip()).startswith("#"):
        comment.insert(0, line.removeprefix("#").strip())
        number -= 1
    return " ".join(comment)
