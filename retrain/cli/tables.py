"""Records as tables for people, or as JSON for programs."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

M = TypeVar("M", bound=BaseModel)
Rows = Iterable[tuple[str, str]]
NONE = "-"
WIDE = 116
"""From this width on, tables show all their columns; a pipe or a file counts as wide."""


class Column(NamedTuple):
    """One column of a table: its title, what it says of a record, and whether a narrow terminal does without it."""

    title: str
    cell: Callable[..., str]
    justify: Literal["left", "right"] = "right"
    only_wide: bool = False


def console() -> Console:
    """Return where tables go. Text is printed as it is, whatever brackets or colons a class's name holds."""
    is_known = os.isatty(1) or "COLUMNS" in os.environ
    return Console(markup=False, highlight=False, emoji=False, width=None if is_known else 120)


def show(record: M | Sequence[M], table: Callable[..., Table], as_json: bool) -> None:
    """Print a record, or a list of them."""
    if not as_json:
        console().print(table(record))
    elif isinstance(record, BaseModel):
        typer.echo(record.model_dump_json(indent=2))
    else:
        typer.echo(json.dumps([item.model_dump(mode="json") for item in record], indent=2))


def details(title: str, rows: Rows) -> Table:
    """Return a table of names and values."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def grid(columns: Sequence[Column], records: Sequence[object]) -> Table:
    """Return a table of one line a record; its first column holds ids, which are never cut."""
    wide = console().width >= WIDE
    shown = [column for column in columns if wide or not column.only_wide]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, _, justify, _ in shown:
        table.add_column(title, justify=justify, no_wrap=True)
    for record in records:
        table.add_row(*(column.cell(record) for column in shown))
    table.columns[0].min_width = max((len(shown[0].cell(record)) for record in records), default=0)
    return table


def percent(value: float | None) -> str:
    """Return an accuracy as people read it."""
    return NONE if value is None else f"{value:.2%}"


def times(value: float | None) -> str:
    """Return a speed-up; '/' where the level was not reached, as in the paper's tables."""
    return "/" if value is None else f"x{value:.2f}"
