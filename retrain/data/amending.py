"""Correct committed drops: from a table of corrections to an amendment that the next run uses."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retrain.config.task import Task
from retrain.data.intake import Intake
from retrain.data.sample_table import SPLITS, USES, SampleTable
from retrain.errors import DropError
from retrain.records import Amendment, Change, Drop
from retrain.records.drop import clean_class_name
from retrain.store.task_store import TaskStore

COLUMNS = ("drop", "key", "content", "class", "remove", "reason", "author")
YES, NO = ("yes", "true", "1"), ("", "no", "false", "0")


class Correction(NamedTuple):
    """One line of a table: a sample by its content, or by its key (and drop), and what becomes of it."""

    line: int
    drop: str
    key: str
    content: str
    class_name: str | None
    """None: it is removed."""
    reason: str
    author: str


def read_corrections(path: Path) -> list[Correction]:
    """Read corrections from a CSV with the columns `COLUMNS`, or from JSON lines with such fields.

    Raises `DropError`, naming the line, at one that is none.
    """
    return [_parse(row, line, path) for line, row in read_rows(path, COLUMNS)]


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the lines of a CSV or of JSON lines that have these columns or fewer, each with its number.

    Values are texts; absent ones are empty. Raises `DropError`, naming the line, at one that is none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DropError(f"{path}: cannot be read: {error}") from error
    read = _read_json_lines if path.suffix in (".jsonl", ".ndjson", ".json") else _read_csv
    found = [
        (line, {name: "" if (value := row.get(name)) is None else str(value).strip() for name in columns})
        for line, row in read(text, path, columns)
    ]
    if not found:
        raise DropError(f"{path}: no line in it names a sample; expected columns {', '.join(columns)}")
    return found


def _read_csv(text: str, path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(text.splitlines())
    if unknown := set(reader.fieldnames or ()) - set(columns):
        raise DropError(f"{path}: unknown column {sorted(unknown)[0]!r}; allowed: {', '.join(columns)}")
    for row in reader:
        if None in row:
            raise DropError(f"{path}: line {reader.line_num}: more values than columns")
        yield reader.line_num, row


def _read_json_lines(text: str, path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DropError(f"{path}: line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or (set(row) - set(columns)):
            raise DropError(f"{path}: line {number}: expected an object with fields of {', '.join(columns)}")
        yield number, row


def _parse(texts: Mapping[str, str], line: int, path: Path) -> Correction:
    where = f"{path}: line {line}"
    if not texts["key"] and not texts["content"]:
        raise DropError(f"{where}: names no sample: give its key or its content, as `retrain data review --csv` does")
    if (remove := texts["remove"].lower()) not in YES + NO:
        raise DropError(f"{where}: remove is {texts['remove']!r}; allowed: yes, no")
    if bool(texts["class"]) == (remove in YES):
        raise DropError(f"{where}: give a class, or remove: yes, and not both")
    try:
        class_name = None if remove in YES else clean_class_name(texts["class"])
    except DropError as error:
        raise DropError(f"{where}: {error}") from error
    return Correction(
        line, texts["drop"], texts["key"], texts["content"], class_name, texts["reason"], texts["author"] or "unknown"
    )


def amend_drops(corrections: Iterable[Correction], task: Task, store: TaskStore) -> Amendment | None:
    """Write the amendment that these corrections are; None if all is as they say already.

    Raises `DropError`, naming the line, at a sample that no drop has, or that more than one has under its key. Then
    nothing is amended.
    """
    intake = Intake(task, store)
    with store.lock_intake() as guarded:
        intake.learn()
        changes: dict[tuple[str, int], Change] = {}
        for correction in corrections:
            for drop, table, row in _find(correction, intake):
                changes[drop.id, row] = _change(drop, table, row, correction)
        removed = {(drop.id, change.row) for drop, _ in intake.tables() for change in drop.removed}
        needed = [
            change
            for place, change in changes.items()
            if (change.after is None and place not in removed)
            or (change.after is not None and (place in removed or change.after != change.before))
        ]
        return guarded.drops.amendments.append(needed) if needed else None


def _find(correction: Correction, intake: Intake) -> list[tuple[Drop, SampleTable, int]]:
    found = []
    for drop, table in intake.tables():
        if correction.drop in ("", drop.id):
            found.extend([(drop, table, row) for row in _rows(correction, table)])
    name = correction.content or correction.key
    if not found:
        within = f"drop {correction.drop}" if correction.drop else "any drop"
        raise DropError(f"line {correction.line}: {name} matches no sample of {within}")
    if not correction.content and len(found) > 1:
        drops = ", ".join(sorted({drop.id for drop, _, _ in found}))
        raise DropError(
            f"line {correction.line}: {name} is the key of {len(found)} samples ({drops}): give its content"
        )
    return found


def _rows(correction: Correction, table: SampleTable) -> list[int]:
    amendable = table.is_used() | (table.use == USES.index("removed")) & (table.shard >= 0)
    if correction.content:
        try:
            content = np.bytes_(bytes.fromhex(correction.content))
        except ValueError as error:
            raise DropError(f"line {correction.line}: {correction.content!r} is not a content digest") from error
        return [int(row) for row in np.flatnonzero((table.content == content) & amendable)]
    return [row for row, key in enumerate(table.keys) if key == correction.key and amendable[row]]


def _change(drop: Drop, table: SampleTable, row: int, correction: Correction) -> Change:
    before = {change.row: change for change in drop.changes}.get(row)
    is_removed = before is not None and before.after is None
    return Change(
        drop=drop.id,
        row=row,
        key=table.keys[row],
        content=table.digest_of(row),
        split=before.split if before else SPLITS[table.use[row]],
        before=before.before if before and is_removed else table.class_of(row),
        after=correction.class_name,
        reason=correction.reason,
        author=correction.author,
    )
