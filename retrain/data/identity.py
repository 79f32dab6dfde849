"""Identify samples by the digest of their image's content: find earlier copies, splits and conflicting classes.

An image that was ever held out (in the val or test split) is never trained on, under any name and in any drop. A
sample's *use* is its split, or the reason why no run uses it (`sample_table.Use`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrain.config import SPLITS, Split
from retrain.data.content import CONTENT_BYTES
from retrain.data.sample_keys import name_in_drop, readable_key
from retrain.data.sample_table import USES, SampleTable, Use
from retrain.errors import DropError, StoreError
from retrain.records import Amendment, Change
from retrain.utils.text import join_names, name_some, pluralize

OnConflict = Literal["newest", "refuse", "keep_both"]

HELD_OUT_MOST: tuple[Use, ...] = ("test", "val", "train")
"""Priority of splits: an image with copies in several splits belongs to the first of these."""

NAMED = 10
"""Number of samples that an error names."""

BY_UPLOAD = "data.on_conflict: newest"
"""Author of automatic changes. A new drop makes them if it gives an image of an earlier drop another class."""


class Earlier(NamedTuple):
    """A sample of an earlier drop."""

    drop: str
    row: int
    key: str
    class_name: str
    use: Use
    is_present: bool
    """False if its drop is in quarantine. No run uses the sample then, but earlier runs may have used it."""


class KnownContent:
    """The samples of a task's drops, by content digest."""

    def __init__(self) -> None:
        self.corrected: Mapping[tuple[str, int], Collection[str]] = {}
        """Classes that people's corrections have replaced, by drop and row."""
        self._drops: list[tuple[str, SampleTable, bool]] = []
        self._sorted: tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[np.int64]] | None = None

    @property
    def drops(self) -> Collection[str]:
        """Return the ids of the known drops."""
        return {drop for drop, _, _ in self._drops}

    def tables(self) -> Iterator[tuple[str, SampleTable, bool]]:
        """Yield each drop's id and samples, and whether runs use the drop."""
        yield from self._drops

    def copy(self) -> "KnownContent":
        """Return a copy. Drops that are added to the copy do not change the original."""
        copy = KnownContent()
        copy._drops, copy._sorted, copy.corrected = list(self._drops), self._sorted, self.corrected
        return copy

    def add(self, drop: str, table: SampleTable, *, is_present: bool = True) -> None:
        """Add a drop."""
        self._drops.append((drop, table, is_present))
        self._sorted = None

    def has(self, content: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Return for each content digest, S16 [N], whether a drop has it: bool [N]."""
        known, _, _ = self._index()
        return np.isin(content, known)

    def find(self, content: bytes) -> list[Earlier]:
        """Return the earlier samples with this digest that are used or were removed, in the order of their drops."""
        if not self._drops:
            return []
        known, number, row = self._index()
        start, stop = (int(np.searchsorted(known, content, side)) for side in ("left", "right"))
        found = (self._earlier(int(number[place]), int(row[place])) for place in range(start, stop))
        return [earlier for earlier in found if earlier.use in (*SPLITS, "removed")]

    def classes(self) -> set[str]:
        """Return the names of all classes."""
        return {name for _, table, _ in self._drops for name in table.classes}

    def trained_classes(self) -> set[str]:
        """Return the classes that have training samples."""
        return {name for _, table, is_present in self._drops if is_present for name in table.counts()["train"]}

    def splits(self) -> set[Split]:
        """Return the splits that have samples."""
        counted = [table.counts() for _, table, is_present in self._drops if is_present]
        return {split for split in SPLITS if any(counts[split] for counts in counted)}

    def _earlier(self, number: int, row: int) -> Earlier:
        drop, table, is_present = self._drops[number]
        return Earlier(drop, row, table.keys[row], table.class_of(row), USES[table.use[row]], is_present)

    def _index(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[np.int64]]:
        """Return all content digests, sorted, each with its drop's number and its row.

        Equal digests are sorted by drop.
        """
        if self._sorted is None:
            content = np.concatenate([np.array([], "S16"), *(table.content for _, table, _ in self._drops)])
            sizes = [len(table) for _, table, _ in self._drops]
            number = np.repeat(np.arange(len(sizes)), sizes)
            row = np.concatenate([np.array([], np.int64), *(np.arange(size) for size in sizes)])
            order = np.argsort(content, kind="stable")
            self._sorted = content[order], number[order], row[order]
        return self._sorted


@dataclass
class Resolved:
    """The final uses of a drop's samples."""

    table: SampleTable
    relabelled: list[Change] = field(default_factory=list)
    """Changes of earlier samples that have another class in this drop."""
    duplicates: dict[str, int] = field(default_factory=dict)
    """Number of duplicates by earlier drop. The key '' has the number of duplicates within this drop."""
    contradicted: int = 0
    """Number of images that no run uses because this drop gives the same picture several classes."""
    removed: int = 0
    """Number of images that an erasure or an amendment has removed from an earlier drop."""
    in_val_and_test: int = 0
    """Number of images with copies in the val and the test split of the source."""
    unseen: list[str] = field(default_factory=list)
    """Classes that have held-out samples but no training samples in any drop."""
    respelt: dict[str, str] = field(default_factory=dict)
    """Classes that differ only in upper and lower case from a class of earlier drops, each with that class."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Classes of earlier drops that `data.aliases` renames in new drops, each with its new name."""
    conflicts: list[str] = field(default_factory=list)
    """Sentences that describe images with two classes."""
    outdated: list[str] = field(default_factory=list)
    """Keys of images that have a class which a person has corrected in an earlier drop. The correction stays."""

    def notes(self) -> Iterator[str]:
        """Yield the notes that the drop's manifest keeps: numbers of images, without the name of any image."""
        for drop, count in self.duplicates.items():
            twin = f"an image of drop {drop}" if drop else "another image of this drop"
            yield f"{pluralize(count, 'image')} left out: the same picture as {twin}"
        if self.contradicted:
            yield f"{pluralize(self.contradicted, 'image')} left out: this drop has the same picture with another class"
        if self.removed:
            yield (
                f"{pluralize(self.removed, 'image')} left out: an erasure or an amendment has removed the same picture "
                "from an earlier drop"
            )
        if self.in_val_and_test:
            yield (
                f"{pluralize(self.in_val_and_test, 'image')} in both val and test of the source, so test does not "
                "measure new images only: remove the copies from one of the two splits before packing"
            )

    def sentences(self) -> Iterator[str]:
        """Yield sentences on conflicts and classes without training samples. They may name images."""
        yield from (f"two classes: {conflict}" for conflict in self.conflicts[:NAMED])
        if len(self.conflicts) > NAMED:
            more = len(self.conflicts) - NAMED
            yield f"{pluralize(more, 'more image')} {'has' if more == 1 else 'have'} two classes"
        if self.outdated:
            named = name_some([readable_key(key) for key in self.outdated])
            yield (
                f"{pluralize(len(self.outdated), 'image')} with a class that an amendment has corrected; the "
                f"correction still applies: {named}"
            )
        if self.unseen:
            yield f"classes without a training image: {join_names(self.unseen)}"
        for name, earlier in self.respelt.items():
            yield (
                f"class {name} differs only in upper and lower case from {earlier} of earlier drops; if they are one "
                "class, set data.aliases before packing, or correct the samples with `retrain drop amend`"
            )
        for name, alias in self.renamed.items():
            yield (
                f"earlier drops still have the class {name}, because data.aliases renames it to {alias} in new drops "
                "only. The model will have both classes: correct the samples with `retrain drop amend`"
            )


def corrected_classes(amendments: Iterable[Amendment]) -> dict[tuple[str, int], set[str]]:
    """Return the classes that people's corrections have replaced, by drop and row."""
    found: dict[tuple[str, int], set[str]] = {}
    for change in (change for one in amendments for change in one.changes if change.author != BY_UPLOAD):
        found.setdefault((change.drop, change.row), set()).add(change.before)
    return found


def draw_splits(content: NDArray[np.bytes_], held_out: Mapping[Split, float]) -> NDArray[np.uint8]:
    """Return a split for each content digest, S16 [N]: uint8 [N], indices into `USES`.

    `held_out` has the shares of the splits. A digest is read as a number in [0, 1). The lowest numbers give val,
    and the highest test.
    """
    digits = np.frombuffer(content.tobytes(), np.uint8).reshape(len(content), CONTENT_BYTES)[:, :6].astype(np.float64)
    position = digits @ (256.0 ** -np.arange(1, 7))
    use = np.full(len(content), USES.index("train"), np.uint8)
    use[position < held_out.get("val", 0.0)] = USES.index("val")
    use[position >= 1 - held_out.get("test", 0.0)] = USES.index("test")
    return use


class Resolver:
    """The rules that decide the use of each sample of one drop, given the samples of earlier drops."""

    def __init__(
        self, known: KnownContent, held_out: Mapping[Split, float], on_conflict: OnConflict, drop_id: str
    ) -> None:
        self._known, self._held_out, self._on_conflict, self._drop_id = known, held_out, on_conflict, drop_id

    def resolve(self, table: SampleTable) -> Resolved:
        """Return a drop's table with its final uses. The given table has the uses that the source states.

        Raises `DropError` if classes conflict and the task refuses such drops. Raises `StoreError` if an image was not
        packed, but no run uses its copy in an earlier drop any longer.
        """
        use = table.use.copy()
        stated = table.content[(use == USES.index("val")) | (use == USES.index("test"))]
        drawn = (use == USES.index("train")) & bool(self._held_out) & ~np.isin(table.content, stated)
        use[drawn] = draw_splits(table.content[drawn], self._held_out)
        resolved = Resolved(table)
        for rows in _copies(table):
            self._resolve_copies(table, rows, use, resolved)
        for row in np.flatnonzero(table.is_used() & self._known.has(table.content)).tolist():
            self._resolve_known(table, row, use, resolved)
        if lost := int(np.count_nonzero((table.shard < 0) & (use < len(SPLITS)))):
            raise StoreError(
                f"{pluralize(lost, 'image')} of drop {self._drop_id} {'was' if lost == 1 else 'were'} not packed, "
                "because an earlier drop had the same picture, but meanwhile this drop was quarantined or amended: run "
                "the command again"
            )
        val, test = (table.content[use == USES.index(split)] for split in ("val", "test"))
        resolved.in_val_and_test = len(np.intersect1d(val, test))
        self._train_on_lone_classes(table, use, drawn)
        if resolved.conflicts and self._on_conflict == "refuse":
            raise DropError(_refusal(resolved.conflicts))
        resolved.table = replace(table, use=use)
        return resolved

    def _resolve_copies(
        self, table: SampleTable, rows: Sequence[int], use: NDArray[np.uint8], resolved: Resolved
    ) -> None:
        """Keep one of several copies of an image in this drop. If their classes differ, keep one of each class.

        With `on_conflict: newest`, keep no copy of an image with several classes. If the source itself has copies in
        val and in test, keep one copy in each of these splits, and train on none.
        """
        held_out = _most_held_out(USES[use[row]] for row in rows)
        by_class: dict[str, list[int]] = {}
        for row in sorted(rows, key=lambda row: (table.shard[row] < 0, HELD_OUT_MOST.index(USES[use[row]]))):
            by_class.setdefault(table.class_of(row), []).append(row)
        for same in by_class.values():
            kept: set[Use] = set()
            for row in same:
                split = held_out if USES[use[row]] == "train" else USES[use[row]]
                use[row] = USES.index("duplicate" if split in kept else split)
                kept.add(split)
        if len(by_class) > 1:
            named = " and ".join(f"{readable_key(table.keys[same[0]])} ({name})" for name, same in by_class.items())
            then = ", and none of them is used" if self._on_conflict == "newest" else ""
            resolved.conflicts.append(f"{named} are the same image{then}")
            if self._on_conflict == "newest":
                use[list(rows)] = USES.index("conflict")
                resolved.contradicted += len(rows)
        if copies := sum(USES[use[row]] == "duplicate" for row in rows):
            resolved.duplicates[""] = resolved.duplicates.get("", 0) + copies

    def _resolve_known(self, table: SampleTable, row: int, use: NDArray[np.uint8], resolved: Resolved) -> None:
        """Leave out an image that an earlier drop has. If its class differs, record a change of that drop."""
        earlier = self._known.find(table.content[row])
        if not earlier or USES[use[row]] not in SPLITS:
            return
        if any(one.use == "removed" for one in earlier):
            use[row] = USES.index("removed")
            resolved.removed += 1
            return
        present = [one for one in earlier if one.is_present]
        use[row] = USES.index(_most_held_out(one.use for one in earlier))
        if not present:
            return
        name = table.class_of(row)
        others = [one for one in present if one.class_name != name]
        if any(name in self._known.corrected.get((one.drop, one.row), ()) for one in others):
            resolved.outdated.append(table.keys[row])
        elif others and len(others) == len(present):
            last = others[-1]
            resolved.conflicts.append(
                f"{readable_key(table.keys[row])} ({name}) is the same image as "
                f"{name_in_drop(readable_key(last.key), last.drop)} ({last.class_name})"
            )
            if self._on_conflict == "keep_both":
                return
            resolved.relabelled.extend(self._relabel(one, table, row) for one in others)
        use[row] = USES.index("duplicate")
        last_drop = present[-1].drop
        resolved.duplicates[last_drop] = resolved.duplicates.get(last_drop, 0) + 1

    def _relabel(self, earlier: Earlier, table: SampleTable, row: int) -> Change:
        return Change(
            drop=earlier.drop,
            row=earlier.row,
            key=earlier.key,
            content=table.digest_of(row),
            split=next(split for split in SPLITS if split == earlier.use),
            before=earlier.class_name,
            after=table.class_of(row),
            reason=f"drop {self._drop_id} has this image with another class",
            author=BY_UPLOAD,
        )

    def _train_on_lone_classes(self, table: SampleTable, use: NDArray[np.uint8], drawn: NDArray[np.bool_]) -> None:
        """Move the images that were drawn for val or test to train, if their class has no training images in any drop.

        Do nothing if the task would then have no val or no test samples.
        """
        trained = np.zeros(len(table.classes), np.bool_)
        trained[table.label[use == USES.index("train")]] = True
        if trained.all():
            return
        before = self._known.trained_classes()
        lone_class = np.array([name not in before for name in table.classes], np.bool_) & ~trained
        lone = drawn & (use < len(SPLITS)) & lone_class[table.label] & ~self._known.has(table.content)
        moved = np.where(lone, USES.index("train"), use)
        if all((moved == place).any() for place in np.unique(use[lone])) or self._known.splits() == set(SPLITS):
            use[:] = moved


def _copies(table: SampleTable) -> Iterator[list[int]]:
    """Yield the rows of each image that a drop has more than once."""
    used = np.flatnonzero(table.is_used())
    _, inverse, counts = np.unique(table.content[used], return_inverse=True, return_counts=True)
    repeated = counts[inverse] > 1
    groups: dict[int, list[int]] = {}
    for row, group in zip(used[repeated].tolist(), inverse[repeated].tolist(), strict=True):
        groups.setdefault(group, []).append(row)
    yield from groups.values()


def _most_held_out(uses: Iterable[Use]) -> Use:
    found = set(uses)
    return next(use for use in HELD_OUT_MOST if use in found)


def _refusal(conflicts: Sequence[str]) -> str:
    named = "; ".join(conflicts[:NAMED]) + ("; ..." if len(conflicts) > NAMED else "")
    return (
        f"{pluralize(len(conflicts), 'image')} with two classes: {named}. Correct the labels, or set data.on_conflict "
        "to newest or keep_both"
    )
