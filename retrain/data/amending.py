"""Correct committed drops: turn a table of corrections into an amendment that the next run uses."""

import csv
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from retrain.config import SPLITS
from retrain.config.task import Task
from retrain.data.committing import DropCommitter
from retrain.data.finding import Search, Selection, parse_content
from retrain.data.identity import NAMED
from retrain.data.sample_keys import readable_key
from retrain.data.sample_table import SampleTable
from retrain.data.tables import cell_text, open_csv
from retrain.errors import DropError
from retrain.records import Amendment, Change, Drop
from retrain.records.drop import canonical_class_name, clean_class_name
from retrain.store.task_store import TaskStore
from retrain.utils.text import pluralize

T = TypeVar("T")
R = TypeVar("R")

COLUMNS = ("drop", "key", "content", "class", "remove", "reason", "author")
YES, NO = ("yes", "true", "1"), ("", "no", "false", "0")


class Correction(NamedTuple):
    """One line of a table of corrections: a sample and its new class."""

    sample: Selection
    class_name: str | None
    """The new class, or None if the sample is removed."""
    reason: str
    author: str
    """Empty if the line names none."""


def read_corrections(path: Path) -> list[Correction]:
    """Read corrections from a CSV with the columns `COLUMNS`, or from JSON lines with these fields.

    Raises `DropError` if lines are no corrections. The message names the lines.
    """
    return _apply_to_all(lambda read: _parse(read[1], read[0], path), read_rows(path, COLUMNS))


def name_author(corrections: Iterable[Correction], decide: Callable[[], str]) -> list[Correction]:
    """Return corrections in which `decide` gives the author where none is named."""
    return [one if one.author else one._replace(author=decide()) for one in corrections]


def _apply_to_all(function: Callable[[T], R], lines: Iterable[T]) -> list[R]:
    """Return the results of a function for all lines. Raises one `DropError` that names the first wrong lines."""
    made, wrong = [], []
    for line in lines:
        try:
            made.append(function(line))
        except DropError as error:
            wrong.append(error)
    if not wrong:
        return made
    more = [f"and {pluralize(len(wrong) - NAMED, 'more wrong line')}"] if len(wrong) > NAMED else []
    raise DropError("\n".join([*map(str, wrong[:NAMED]), *more])) from wrong[0]


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the lines of a CSV, or of JSON lines, each with its number. A line may lack some of the `columns`.

    All values are strings. An absent value is an empty string. Raises `DropError` for a wrong line, or for a value that
    is neither text nor a whole number. The message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DropError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DropError(f"{path}: cannot be read: not a text file in UTF-8") from error
    read = _read_json_lines if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else _read_csv
    try:
        found = [
            (line, {name: cell_text(row.get(name), name, f"{path}: line {line}").strip() for name in columns})
            for line, row in read(text, path, columns)
        ]
    except csv.Error as error:
        raise DropError(f"{path}: cannot be read: {error}; check its quotation marks") from error
    if not found:
        raise DropError(f"{path}: has no line with a sample; expected columns {', '.join(columns)}")
    return found


def _read_csv(text: str, path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = open_csv(text, str(path))
    if unknown := set(reader.fieldnames or ()) - set(columns):
        advice = ". Separate columns by commas" if re.search(r"[;\t]", sorted(unknown)[0]) else ""
        raise DropError(f"{path}: unknown column {sorted(unknown)[0]!r}; allowed: {', '.join(columns)}{advice}")
    for row in reader:
        if None in row:
            raise DropError(
                f"{path}: line {reader.line_num}: more values than columns; put quotation marks around a value that "
                "contains a comma"
            )
        yield reader.line_num, row


def _read_json_lines(text: str, path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DropError(f"{path}: line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or (set(row) - set(columns)):
            raise DropError(f"{path}: line {number}: expected an object with fields of {', '.join(columns)}")
        yield number, row


def _parse(texts: Mapping[str, str], line: int, path: Path) -> Correction:
    where = f"{path}: line {line}"
    if not texts["key"] and not texts["content"]:
        raise DropError(
            f"{where}: has neither a key nor a content digest: give one of them, as in the table of `retrain data "
            "review --csv`"
        )
    if (remove := texts["remove"].lower()) not in YES + NO:
        raise DropError(f"{where}: remove is {texts['remove']!r}; allowed: yes, no")
    if bool(texts["class"]) == (remove in YES):
        found = "both a class and remove: yes" if texts["class"] else "neither a class nor remove: yes"
        raise DropError(f"{where}: has {found}; give one of them")
    try:
        class_name = None if remove in YES else clean_class_name(texts["class"])
    except DropError as error:
        raise DropError(f"{where}: {error}") from error
    sample = Selection(where, texts["drop"], texts["key"], texts["content"])
    if sample.content:
        parse_content(sample)
    return Correction(sample, class_name, texts["reason"], texts["author"])


def amend_drops(corrections: Iterable[Correction], task: Task, store: TaskStore) -> Amendment | None:
    """Write these corrections as an amendment, and return it. Return None if they change nothing.

    Raises `DropError` if a corrected sample is in no drop, if several samples have its key, or if an earlier line
    corrects it differently. The message names the lines, and nothing is amended.
    """
    committer = DropCommitter(task, store)
    with store.lock_commits() as guarded:
        committer.refresh()
        corrections = _apply_to_all(partial(_spell_class, committer.known.classes()), corrections)
        search = Search([one.sample for one in corrections], committer.tables())
        places = [_Place.of(*one) for one in search.drops]
        made: dict[tuple[str, int], tuple[Correction, Change]] = {}

        def add(correction: Correction) -> None:
            for place, row in _find(correction, search, places):
                first, _ = made.setdefault((place.drop.id, row), (correction, place.change(row, correction)))
                if first.class_name != correction.class_name:
                    raise DropError(
                        f"{correction.sample.where}: {readable_key(place.table.keys[row])} has another correction in "
                        f"{first.sample.where}: remove one of them"
                    )

        _apply_to_all(add, corrections)
        removed = {(place.drop.id, change.row) for place in places for change in place.drop.removed}
        needed = [
            change
            for at, (_, change) in made.items()
            if (change.after is None and at not in removed)
            or (change.after is not None and (at in removed or change.after != change.before))
        ]
        return guarded.drops.amendments.append(needed) if needed else None


def _spell_class(known: Collection[str], correction: Correction) -> Correction:
    """Return a correction without invisible characters in its class, unless a drop has a class of exactly this name."""
    if correction.class_name is None or correction.class_name in known:
        return correction
    try:
        return correction._replace(class_name=canonical_class_name(correction.class_name))
    except DropError as error:
        raise DropError(f"{correction.sample.where}: {error}") from error


class _Place(NamedTuple):
    """A searched drop, the samples in it that can be amended, and the earlier changes of its samples by row."""

    drop: Drop
    table: SampleTable
    amendable: NDArray[np.bool_]
    changes: Mapping[int, Change]

    @classmethod
    def of(cls, drop: Drop, table: SampleTable) -> Self:
        amendable = table.is_used()
        amendable[[change.row for change in drop.removed]] = True
        return cls(drop, table, amendable, {change.row: change for change in drop.changes})

    def change(self, row: int, correction: Correction) -> Change:
        before = self.changes.get(row)
        is_removed = before is not None and before.after is None
        return Change(
            drop=self.drop.id,
            row=row,
            key=self.table.keys[row],
            content=self.table.digest_of(row),
            split=before.split if before else SPLITS[self.table.use[row]],
            before=before.before if before and is_removed else self.table.class_of(row),
            after=correction.class_name,
            reason=correction.reason,
            author=correction.author,
        )


def _find(correction: Correction, search: Search, places: Sequence[_Place]) -> list[tuple[_Place, int]]:
    """Return the samples that a correction names. There are several if the same image is in several drops."""
    sample = correction.sample
    found = [(places[number], row) for number, row in search.find(sample) if places[number].amendable[row]]
    name = sample.content or sample.key
    if not found:
        within = f"drop {sample.drop}" if sample.drop else "any drop"
        raise DropError(
            f"{sample.where}: {name} matches no sample of {within}: copy the key or the content digest from the "
            "table of `retrain data review --csv`"
        )
    if not sample.content and len(found) > 1:
        drops = ", ".join(sorted({place.drop.id for place, _ in found}))
        which = "its content digest" if sample.drop else "its drop or its content digest"
        raise DropError(f"{sample.where}: {name} is the key of {len(found)} samples ({drops}): give {which}")
    return found
