"""The drops of a task in its store: committed, in quarantine, or uploaded and not validated yet."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import nlargest
from itertools import chain
from typing import NamedTuple

from pydantic import ValidationError

from retrain.errors import DamagedDrop, DropError
from retrain.records import Drop, DropRef, Record, Uploaded
from retrain.records.drop import ERASED, amend, parse_manifest, without_erased
from retrain.store.base import Conflict, Entry, Missing, ObjectStore
from retrain.store.corrections import Amendments
from retrain.store.keys import OWN_SHARD, TaskKeys
from retrain.utils.parallel import map_ahead
from retrain.utils.text import pluralize

log = logging.getLogger("retrain")


OWN_FILES = re.compile(rf"_SUCCESS|samples(-[0-9a-f]{{8}})?\.safetensors|(packed/)?{OWN_SHARD}|")
"""Names of a drop's files that are not the producer's data. An object for the folder itself has the empty name."""


NAMED = 10
"""Largest number of late files that a message names."""


@dataclass
class Arrivals:
    """The times at which a drop's files were written, by the store's clock."""

    committed: datetime | None = None
    """Time at which the drop's manifest was written."""
    manifest_size: int = 0
    """Bytes of the manifest."""
    listed: datetime | None = None
    """Time at which the drop's sample list was written. This is before the manifest, unless both were copied from
    another store."""
    success: datetime | None = None
    """Time at which the drop's `_SUCCESS` was written."""
    newest: list[tuple[datetime, str]] = field(default_factory=list)
    """The `NAMED` newest files of the drop's producer, newest first."""

    @property
    def manifest_version(self) -> tuple[datetime | None, int]:
        """Return a value that changes when a manifest is rewritten, as after an erasure."""
        return self.committed, self.manifest_size

    def add(self, name: str, size: int, at: datetime | None) -> None:
        """Record a file."""
        if at is None:
            return
        if name == "drop.json":
            self.committed, self.manifest_size = at, size
        elif name == "_SUCCESS":
            self.success = at
        elif OWN_FILES.fullmatch(name):
            self.listed = at if name.startswith("samples") else self.listed
        else:
            self.newest = nlargest(NAMED, [*self.newest, (at, name)])

    def later(self) -> list[str]:
        """Return the names of the newest files written after the manifest. Empty if the times are not reliable."""
        if self.committed is None or self.listed is None or self.listed > self.committed:
            return []
        return [name for at, name in reversed(self.newest) if at > self.committed]

    @property
    def ended_again(self) -> bool:
        """Return whether `_SUCCESS`, but no other file of the producer, was written after the manifest."""
        if self.committed is None or self.listed is None or self.success is None or self.later():
            return False
        return self.listed <= self.committed < self.success


class CommittedDrops(NamedTuple):
    """The ids of the usable drops (committed and not in quarantine), and of all drops in quarantine."""

    usable: tuple[str, ...]
    quarantined: frozenset[str]
    uploaded: Mapping[str, Uploaded]
    """Number and size of the files that producers uploaded, by drop. Shards are included."""
    arrivals: Mapping[str, Arrivals]
    """Times at which each drop's files were written."""

    @property
    def uncommitted(self) -> dict[str, str]:
        """Return the producers' uploads without manifest and quarantine, each with the step that it lacks.

        Uploads that became amendments are among them.
        """
        found = {}
        for drop, arrival in sorted(self.arrivals.items()):
            if arrival.committed or drop in self.quarantined:
                continue
            if arrival.success:
                found[drop] = "the upload is complete, but not yet checked: `retrain watch` checks and commits it"
            elif drop in self.uploaded:
                there = pluralize(self.uploaded[drop].files, "file")
                found[drop] = f"{there} without _SUCCESS: write an empty _SUCCESS when the upload is complete"
        return found


class Quarantine(Record):
    """`drops/<id>/quarantine.json`: no run uses the drop. If the report is deleted, the drop is validated again."""

    drop: str
    task: str
    cause: str
    """A text that names the shard, the key and the cause."""
    found_at: datetime


FOREIGN_REPORT = "a report that retrain did not write"
"""Cause of a quarantine whose report a person wrote by hand."""


@dataclass
class DropStates:
    """Ids of drops by their states. A drop that has only shards has not landed yet, and has no state."""

    committed: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    """Drops with `_SUCCESS`. Their upload is complete."""
    quarantined: set[str] = field(default_factory=set)
    amended: set[str] = field(default_factory=set)
    """Uploads that became amendments of earlier drops."""

    @property
    def waiting(self) -> set[str]:
        """Return the drops that can be trained on."""
        return self.committed - self.quarantined

    @property
    def unvalidated(self) -> set[str]:
        """Return the drops whose upload has ended, and that are not validated yet."""
        return self.ended - self.committed - self.quarantined - self.amended

    def only(self, ids: Iterable[str]) -> "DropStates":
        """Return the states of the drops with these ids."""
        wanted = set(ids)
        found = (self.committed, self.ended, self.quarantined, self.amended)
        return DropStates(*(state & wanted for state in found))


class Drops:
    """The drops of one task."""

    def __init__(self, objects: ObjectStore, keys: TaskKeys) -> None:
        self._objects, self._keys = objects, keys
        self.amendments = Amendments(objects, keys)

    def find(self, drop_id: str) -> Drop | None:
        """Return a drop with its amendments applied, or None if it is not committed.

        Raises `DamagedDrop` if the drop's manifest is damaged.
        """
        drop = self.find_manifest(drop_id)
        return drop and amend(drop, self.amendments.of_drop(drop_id))

    def find_manifest(self, drop_id: str) -> Drop | None:
        """Return a drop as it was committed, without amendments, or None if it is not committed.

        Raises `DamagedDrop` if the drop's manifest is damaged.
        """
        key, task = self._keys.manifest(drop_id), self._keys.task
        where = f"{self._objects.url}/{key}"
        try:
            drop = parse_manifest(self._objects.read(key)[0])
        except Missing:
            return None
        except DropError as error:
            raise DamagedDrop(drop_id, f"{where}: {error}") from error
        if (drop.id, drop.task) != (drop_id, task):
            raise DamagedDrop(
                drop_id,
                f"{where}: it is the manifest of another drop: {drop.id} of task {drop.task}. Restore the manifest "
                "from a copy of the store",
            )
        return drop

    def read_manifest(self, drop_id: str) -> Drop:
        """Return a drop as it was committed, without amendments. Raises the errors of `read`."""
        drop = self.find_manifest(drop_id)
        if drop is None:
            if cause := self.quarantine_cause(drop_id):
                raise DropError(
                    f"drop {drop_id} is in quarantine: {cause}. Correct its files, and then delete "
                    f"{self._keys.quarantine(drop_id)}: the watcher validates the drop again"
                )
            if amendment := self.amendments.of_upload(drop_id):
                raise DropError(f"{drop_id} is not a drop: it had only new labels, and became {amendment}")
            raise DropError(
                f"task {self._keys.task} has no drop {drop_id} in {self._objects.url}: `retrain drop list` lists them"
            )
        return drop

    def find_undamaged(self, drop_id: str) -> Drop | None:
        """Return a drop as it was committed. Return None if there is none or its manifest is damaged."""
        with suppress(DamagedDrop):
            return self.find_manifest(drop_id)
        return None

    def replace_manifest(self, drop: Drop) -> None:
        """Replace a drop's manifest, after files of the drop were erased."""
        key = self._keys.manifest(drop.id)
        self._objects.replace(key, drop.to_bytes(), self._objects.read(key)[1])

    def read(self, drop_id: str) -> Drop:
        """Return a drop with its amendments applied.

        Raises `DropError` if there is no such drop, and `DamagedDrop` if its manifest is damaged.
        """
        return amend(self.read_manifest(drop_id), self.amendments.of_drop(drop_id))

    def read_many(self, ids: Iterable[str]) -> Iterator[Drop]:
        """Yield drops with their amendments applied, in this order. Raises the errors of `read`."""
        changes = self.amendments.by_drop()
        for drop in map_ahead(self.read_manifest, ids):
            yield amend(drop, changes.get(drop.id, ()))

    def read_versions(self, refs: Iterable[DropRef]) -> Iterator[Drop]:
        """Yield the drops of a dataset in the versions that the dataset was made with. Raises the errors of `read`.

        Samples that were erased later are left out (`Drop.erased_since`). If no version of a drop has the digest in the
        dataset, this yields the newest version. The caller must compare the digests.
        """
        refs, all_changes = tuple(refs), self.amendments.by_drop()
        for ref, drop in zip(refs, map_ahead(self.read_manifest, [ref.id for ref in refs]), strict=True):
            changes = all_changes.get(drop.id, ())
            newest = amend(drop, changes)
            versions = (amend(drop, changes[:number]) for number in range(len(changes), -1, -1))
            yield without_erased(next((one for one in versions if one.digest == ref.digest), newest), newest)

    def committed(self, ids: Iterable[str] | None = None) -> CommittedDrops:
        """List the committed drops, or those with these ids, without reading their manifests."""
        found: dict[str, set[str]] = {"drop.json": set(), "quarantine.json": set()}
        files, sizes, arrivals = Counter[str](), Counter[str](), defaultdict[str, Arrivals](Arrivals)
        folders = [self._keys.drops] if ids is None else [self._keys.drop_file(drop, "") for drop in sorted(ids)]
        for entry in chain.from_iterable(map(self._objects.list, folders)):
            drop, _, name = entry.key.removeprefix(self._keys.drops).partition("/")
            arrivals[drop].add(name, entry.size, entry.modified)
            if name in found:
                found[name].add(drop)
            elif not OWN_FILES.fullmatch(name):
                files[drop] += 1
                sizes[drop] += entry.size
        return CommittedDrops(
            tuple(sorted(found["drop.json"] - found["quarantine.json"])),
            frozenset(found["quarantine.json"]),
            {drop: Uploaded(files=files[drop], size=sizes[drop]) for drop in files},
            arrivals,
        )

    def all(self) -> tuple[Drop, ...]:
        """Return all committed drops that are not in quarantine, in the order of their commit (and id).

        Raises `DamagedDrop` at a damaged manifest.
        """
        return _in_order(self.read_many(self.committed().usable))

    def readable(self) -> tuple[Drop, ...]:
        """Return the drops of `all` whose manifests are not damaged. Log the damaged drops.

        Only callers that display drops may use this.
        """
        changes = self.amendments.by_drop()

        def read_undamaged(drop_id: str) -> Drop | None:
            try:
                return amend(self.read_manifest(drop_id), changes.get(drop_id, ()))
            except DamagedDrop as damaged:
                log.warning("%s. The next retraining quarantines the drop", damaged)
                return None

        return _in_order(filter(None, map_ahead(read_undamaged, self.committed().usable)))

    def quarantine(self, drop: str, cause: str) -> None:
        """Put a drop into quarantine and log it. An earlier report stays."""
        report = Quarantine(drop=drop, task=self._keys.task, cause=cause, found_at=datetime.now(UTC))
        with suppress(Conflict):
            self._objects.create(self._keys.quarantine(drop), report.to_bytes())
        log.warning(
            "%s: drop %s is quarantined: %s. No run uses it until its files are corrected and %s is deleted",
            self._keys.task,
            drop,
            cause,
            self._keys.quarantine(drop),
        )

    def remove_from_quarantine_report(self, drop: str, names: Collection[str]) -> None:
        """Replace names, such as the keys of erased samples, in the report on a drop."""
        if not names:
            return
        key = self._keys.quarantine(drop)
        longest_first = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        with suppress(Missing):
            data, version = self._objects.read(key)
            report = _parse_report(data)
            cause = re.sub(rf"(?<!\w)({longest_first})(?!\w)", ERASED, report.cause) if report else ""
            if report and cause != report.cause:
                self._objects.replace(key, report.model_copy(update={"cause": cause}).to_bytes(), version)

    def quarantine_damaged(self, damaged: DamagedDrop) -> None:
        """Put a damaged drop into quarantine. The next plan leaves it out."""
        self.quarantine(damaged.drop, str(damaged))

    def quarantine_reports(self) -> dict[str, Quarantine | None]:
        """Return the report of each drop in quarantine, or None for a report that a person wrote by hand."""
        found = {}
        for drop in sorted(self.committed().quarantined):
            with suppress(Missing):  # a person has just deleted it
                found[drop] = _parse_report(self._objects.read(self._keys.quarantine(drop))[0])
        return found

    def quarantine_cause(self, drop: str) -> str | None:
        """Return the cause if this drop is in quarantine, or None."""
        try:
            report = _parse_report(self._objects.read(self._keys.quarantine(drop))[0])
        except Missing:
            return None
        return report.cause if report else FOREIGN_REPORT

    def quarantine_causes(self) -> dict[str, str]:
        """Return the cause for each drop in quarantine."""
        reports = self.quarantine_reports().items()
        return {drop: report.cause if report else FOREIGN_REPORT for drop, report in reports}

    def scan(self, ids: Iterable[str] | None = None) -> DropStates:
        """Return the states of the drops with these ids, or of all drops.

        For given ids, only the objects that determine the state are requested. For all drops, every object is listed.
        Memory grows with the number of drops and not with the number of objects.
        """
        states = DropStates()
        kinds = {"drop.json": states.committed, "_SUCCESS": states.ended, "quarantine.json": states.quarantined}
        named = [self._keys.drop_file(drop, name) for drop in sorted(ids or ()) for name in kinds]
        for entry in self._objects.list(self._keys.drops) if ids is None else self._each(named):
            drop, _, name = entry.key.removeprefix(self._keys.drops).partition("/")
            if name in kinds:
                kinds[name].add(drop)
        if states.unvalidated:
            states.amended = {one.upload for one in self.amendments.read() if one.upload} & states.ended
        return states

    def _each(self, keys: Iterable[str]) -> Iterator[Entry]:
        """Yield the objects of these keys that exist. Several requests are sent at a time."""
        for found in map_ahead(lambda key: list(self._objects.list(key)), keys):
            yield from found


def late_files(drop: Drop, found: CommittedDrops) -> str | None:
    """Return a sentence about files that were added or changed after a drop's commit, or None if there are none.

    It names up to `NAMED` of them, if the store's times are reliable.
    """
    if drop.sample_list is None:  # manifests of an earlier version do not state the producer's files
        return None
    own = [shard for shard in drop.shards if not OWN_FILES.fullmatch(shard.name)]
    expected = drop.uploaded or Uploaded(files=len(own), size=sum(shard.size for shard in own))
    there, arrivals = found.uploaded.get(drop.id, Uploaded(files=0, size=0)), found.arrivals.get(drop.id, Arrivals())
    if there.files <= expected.files and (there.size == expected.size or there.files < expected.files):
        if not arrivals.ended_again:
            return None
        return (
            f"drop {drop.id}: its _SUCCESS was written again after the commit, without effect: upload "
            "the new files as a drop with another id"
        )
    added = there.files - expected.files
    more = f"{pluralize(added, 'file')} {'was' if added == 1 else 'were'} added" if added > 0 else "files were changed"
    names = arrivals.later()
    named = f" ({', '.join(names)}{', ...' if len(names) == NAMED else ''})" if names else ""
    return (
        f"drop {drop.id}: {more} after the commit{named}, and no run uses the new content: upload it as a drop "
        "with another id"
    )


def _in_order(drops: Iterable[Drop]) -> tuple[Drop, ...]:
    return tuple(sorted(drops, key=lambda drop: (drop.committed_at, drop.id)))


def _parse_report(report: bytes) -> Quarantine | None:
    try:
        return Quarantine.model_validate_json(report)
    except ValidationError:
        return None
