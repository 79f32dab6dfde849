"""Commit drops: compare their samples with the samples of committed drops, and write the manifest last.

A lease lets one commit run at a time, because the samples that a drop adds depend on the drops before it."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from retrain.config import SPLITS
from retrain.config.task import Task
from retrain.data.identity import NAMED, KnownContent, Resolved, Resolver, corrected_classes
from retrain.data.likeness import describe_alike, find_alike
from retrain.data.manifest_builder import ReadDrop, build_manifest
from retrain.data.sample_table import SampleTable, name_table
from retrain.data.table_making import read_or_make_table
from retrain.errors import DamagedDrop, DropError
from retrain.records import Amendment, Drop
from retrain.records.drop import Changes, amend, changes_by_drop
from retrain.store.base import Conflict
from retrain.store.drops import CommittedDrops
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import map_ahead
from retrain.utils.text import join_names

log = logging.getLogger("retrain")


NOTHING_NEW = "the source has no new image"
TABLES_AHEAD = 8
"""Number of sample tables that are read at the same time. For a drop of an early version, a table is made from the
shards, and this takes memory."""


class Packed(NamedTuple):
    """The drop that was committed, or an earlier drop if no sample was new. `new` is False for an earlier drop."""

    drop: Drop
    new: bool
    amendment: Amendment | None = None
    """The amendment that gives images of earlier drops their new labels."""
    refusal: str | None = None
    """The reason why a commit would refuse the drop. Only a dry run sets it."""


class DropCommitter:
    """Commits the drops of one task. Keeps the samples of earlier drops for comparison."""

    def __init__(
        self,
        task: Task,
        store: TaskStore,
        tell: Callable[[str], None] = log.info,
        compare_with: Collection[str] | None = None,
        *,
        dry_run: bool = False,
    ) -> None:
        """Create a committer that has read no drop yet. It calls `tell` with its findings, in sentences.

        It reads only drops whose ids are in `compare_with`, or all drops if that is None. With `dry_run`, it does not
        quarantine damaged drops.
        """
        self.task, self.store, self._tell, self._compare_with = task, store, tell, compare_with
        self._dry_run = dry_run
        self.known = KnownContent()
        self.written: SampleTable | None = None
        """The samples of the last committed drop."""
        self._drops: dict[str, Drop] = {}
        self._manifests: dict[str, tuple[object, Drop]] = {}
        self._tables: dict[str, SampleTable] = {}
        self._usable = frozenset[str]()

    def refresh(self) -> None:
        """Read the drops that were committed, amended, erased or quarantined since the last call.

        Quarantine damaged drops.
        """
        found, amendments = self.store.drops.committed(), self.store.drops.amendments.read()
        drops = self._read_drops(found, changes_by_drop(amendments))
        usable = frozenset(found.usable) & drops.keys()
        if usable != self._usable or _versions(drops) != _versions(self._drops):
            self._drops, self._usable = drops, usable
            self._read_tables()
        self.known.corrected = corrected_classes(amendments)

    def _read_drops(self, found: CommittedDrops, changes: Mapping[str, Changes]) -> dict[str, Drop]:
        """Return the drops whose manifests are not damaged. Quarantine the others."""
        committed, drops = {*found.usable, *found.quarantined}, dict[str, Drop]()
        ids = sorted(committed if self._compare_with is None else committed.intersection(self._compare_with))
        versions = [found.arrivals[drop_id].manifest_version for drop_id in ids]
        for drop_id, drop in zip(ids, map_ahead(self._read_manifest, zip(ids, versions, strict=True)), strict=True):
            if isinstance(drop, DamagedDrop):
                self._quarantine(drop)
            elif drop:
                drops[drop_id] = amend(drop, changes.get(drop_id, ()))
        return drops

    def _read_tables(self) -> None:
        """Read the samples of the drops, in the order of their commits. Quarantine the drops with damaged samples."""
        self.known, tables, usable = KnownContent(), dict[str, SampleTable](), self._usable
        ordered = sorted(self._drops.values(), key=lambda drop: (drop.committed_at, drop.id))
        for drop, table in zip(ordered, map_ahead(self._read_table, ordered, TABLES_AHEAD), strict=True):
            if isinstance(table, DamagedDrop):
                self._quarantine(table)
            else:
                tables[drop.decoded_digest] = table
                self.known.add(drop.id, table, is_present=drop.id in usable)
        self._tables = tables

    def _read_manifest(self, place: tuple[str, object]) -> Drop | DamagedDrop | None:
        """Return a drop's manifest, or the error if it is damaged. `place` is the drop's id and its manifest's version.

        A manifest is read again only after an erasure has rewritten it.
        """
        drop_id, version = place
        if (known := self._manifests.get(drop_id)) and known[0] == version:
            return known[1]
        try:
            drop = self.store.drops.find_manifest(drop_id)
        except DamagedDrop as damaged:
            return damaged
        if drop:
            self._manifests[drop_id] = version, drop
        return drop

    def _read_table(self, drop: Drop) -> SampleTable | DamagedDrop:
        """Return a drop's samples, or the error if they cannot be read."""
        if (known := self._tables.get(drop.decoded_digest)) is not None:
            return known
        try:
            return read_or_make_table(drop, self.store)
        except DamagedDrop as damaged:
            return damaged

    def _quarantine(self, damaged: DamagedDrop) -> None:
        if self._dry_run:
            log.warning("%s. The next retraining quarantines the drop.", damaged)
        else:
            log.warning("%s. The drop is quarantined.", damaged)
            self.store.drops.quarantine_damaged(damaged)
        self._usable -= {damaged.drop}

    def tables(self, *, quarantined: bool = False) -> Iterator[tuple[Drop, SampleTable]]:
        """Yield the drops that runs use, or with `quarantined` all drops, each with its samples, in commit order."""
        for drop, table, is_present in self.known.tables():
            if is_present or quarantined:
                yield self._drops[drop], table

    def resolve(self, read: ReadDrop, drop_id: str) -> Resolved:
        """Decide the use of each sample of a drop: its split, or the reason to leave it out.

        Raises `DropError` if the task's settings refuse the drop.
        """
        data = self.task.data
        if read.table.differs_from(chain.from_iterable(self.store.drops.amendments.of_drop(drop_id))):
            raise DropError(
                f"drop {drop_id}: amendments correct other images of a former drop with this id: choose another id"
            )
        resolved = Resolver(self.known, read.held_out, data.on_conflict, drop_id).resolve(read.table)
        resolved.unseen = unseen_classes(resolved.table, self.known)
        resolved.respelt = respelt_classes(resolved.table, self.known)
        resolved.renamed = renamed_classes(resolved.table, self.known, data.aliases)
        if resolved.unseen and data.unseen_classes == "refuse":
            named = join_names(resolved.unseen[:10])
            raise DropError(
                f"{read.root}: no training image of {named}, and data.unseen_classes is refuse: add training images, "
                "or set it to exclude"
            )
        return resolved

    def can_leave_out(self, content: bytes, class_name: str) -> bool:
        """Return whether an image need not be packed, because an earlier drop has it, or it was removed."""
        earlier = self.known.find(content)
        if any(one.use == "removed" for one in earlier):
            return True
        classes = {one.class_name for one in earlier if one.is_present}
        return bool(classes) and (class_name in classes or self.task.data.on_conflict != "keep_both")

    def check(self, reads: Iterable[tuple[ReadDrop, str]], tell: Callable[[str], None] | None = None) -> list[Packed]:
        """Return the result of committing these drops one after another. Nothing is written.

        Raises `DropError` if a drop could not be committed. `tell` is called with the findings.
        """
        known, self.known = self.known, self.known.copy()
        try:
            return [self._check(read, drop_id, tell) for read, drop_id in reads]
        finally:
            self.known = known

    def _check(self, read: ReadDrop, drop_id: str, tell: Callable[[str], None] | None) -> Packed:
        if found := self._committed_before(read, drop_id):
            return Packed(found, new=False)
        resolved = self.resolve(read, drop_id)
        holder = self._holder(resolved)
        if tell:
            nothing_new = () if resolved.relabelled else (NOTHING_NEW,)
            # the manifest of a new drop has its notes
            not_shown = (*resolved.notes(), *read.notes(), *nothing_new) if holder else ()
            for sentence in (*resolved.sentences(), *self._describe_alike(drop_id, resolved.table), *not_shown):
                tell(sentence)
        amendment = self.store.drops.amendments.prepare(resolved.relabelled) if resolved.relabelled else None
        if holder:
            return Packed(holder, False, amendment)
        drop = self._build(read, drop_id, resolved, resolved.table.to_bytes())
        self.known.add(drop_id, resolved.table)
        return Packed(drop, True, amendment)

    def _describe_alike(self, drop_id: str, table: SampleTable) -> Iterator[str]:
        """Yield sentences on near-duplicates: among a drop's samples, and between them and samples of known drops."""
        before = [(drop, known) for drop, known, is_present in self.known.tables() if is_present]
        return describe_alike(find_alike([*before, (drop_id, table)], since=len(before)), NAMED)

    def _holder(self, resolved: Resolved) -> Drop | None:
        """Return an earlier drop that has some of a drop's samples, if the drop has no new sample.

        Otherwise return None.
        """
        holders = [self._drops[name] for name in resolved.duplicates if name in self._drops]
        return holders[-1] if holders and not resolved.table.is_used().any() else None

    def commit(self, read: ReadDrop, drop_id: str, upload: Callable[[], None] = lambda: None) -> Packed:
        """Commit a drop. `upload` puts its shards into the store.

        Raises `DropError` if it cannot be committed, or if a drop of this id has other content.
        """
        if found := self._committed_before(read, drop_id):
            return Packed(found, new=False)
        upload()
        with self.store.lock_commits() as store:
            self.refresh()
            if found := self._committed_before(read, drop_id):
                return Packed(found, new=False)
            resolved = self.resolve(read, drop_id)
            found_here = (*resolved.notes(), *resolved.sentences(), *self._describe_alike(drop_id, resolved.table))
            for sentence in (*read.notes(), *found_here):
                self._tell(sentence)
            holder = self._holder(resolved)
            data = resolved.table.to_bytes()
            drop = holder or self._build(read, drop_id, resolved, data)  # may raise, so before the amendment
            amendment = self._amend(resolved, drop_id if holder and read.uploaded else None, store)
            if holder is None:
                self._write(drop, data, store)
                self.written = resolved.table
            elif amendment is None:
                self._tell(NOTHING_NEW)
            return Packed(drop, holder is None, amendment)

    def _amend(self, resolved: Resolved, upload: str | None, store: TaskStore) -> Amendment | None:
        """Write the new labels of earlier images as an amendment, and return it. Return None if there are none.

        If an interrupted validation of the upload has already written its amendment, return that amendment.
        """
        if not resolved.relabelled:
            return store.drops.amendments.of_upload(upload) if upload else None
        amendment = store.drops.amendments.append(resolved.relabelled, upload)
        self._tell(str(amendment))
        return amendment

    def _committed_before(self, read: ReadDrop, drop_id: str) -> Drop | None:
        """Return the committed drop with the same source, or None.

        Raises `DropError` if a drop with this id has another source, or is in quarantine.
        """
        same_id = self._drops.get(drop_id)
        if same_id and same_id.source != read.source:
            raise DropError(f"drop {drop_id} exists with other content, and drops never change; choose another id")
        if same_id and drop_id not in self._usable and (cause := self.store.drops.quarantine_cause(drop_id)):
            raise DropError(
                f"drop {drop_id} was committed before and is in quarantine, so no run uses it: {cause}. Correct its "
                f"files and delete {self.store.keys.quarantine(drop_id)}, or choose another id"
            )
        same_source = (self._drops[name] for name in sorted(self._usable) if self._drops[name].source == read.source)
        return same_id or next(same_source, None)

    def _build(self, read: ReadDrop, drop_id: str, resolved: Resolved, data: bytes) -> Drop:
        missing = set(SPLITS) - self.known.splits()
        return build_manifest(drop_id, self.task.name, read, resolved, name_table(data), missing)

    def _write(self, drop: Drop, table: bytes, store: TaskStore) -> None:
        store.objects.write(store.keys.drop_file(drop.id, name_table(table).name), table)
        try:
            store.objects.create(store.keys.manifest(drop.id), drop.to_bytes())
        except Conflict as error:
            raise DropError(f"drop {drop.id} has just been committed by another process; choose another id") from error


def _versions(drops: Mapping[str, Drop]) -> dict[str, str]:
    """Return a digest of each drop's samples. It changes with every amendment and erasure."""
    return {drop_id: drop.decoded_digest for drop_id, drop in drops.items()}


def unseen_classes(table: SampleTable, known: KnownContent) -> list[str]:
    """Return the classes with held-out samples in a drop but no training sample in it or in known drops."""
    counts = table.counts()
    held_out = counts["val"].keys() | counts["test"].keys()
    unseen = held_out - counts["train"].keys()
    return sorted(unseen - known.trained_classes()) if unseen else []


def respelt_classes(table: SampleTable, known: KnownContent) -> dict[str, str]:
    """Return the classes that differ from a known class only in upper and lower case, each with the known class."""
    before = known.classes()
    folded = {name.casefold(): name for name in sorted(before)}
    new = (name for name in table.classes if name not in before)
    return {name: folded[name.casefold()] for name in new if name.casefold() in folded}


def renamed_classes(table: SampleTable, known: KnownContent, aliases: Mapping[str, str]) -> dict[str, str]:
    """Return the classes of known drops that have an alias, each with its alias, if this drop has a class so named.

    An alias applies to new drops only, so the model will have both classes.
    """
    before = known.trained_classes() if aliases else set()
    return {name: alias for name, alias in aliases.items() if name in before and alias in table.classes}
