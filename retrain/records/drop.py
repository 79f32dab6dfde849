"""Drops, their manifests, and the datasets made of them.

Manifests come from producers and are not trusted: they are checked as they are parsed."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Annotated

from pydantic import AwareDatetime, Field, NonNegativeInt, ValidationError

from retrain.config import Split
from retrain.errors import DropError
from retrain.records.base import Record, canonical_json, digest
from retrain.utils.text import is_key, pluralize

HeldOut = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Shard(Record):
    """One tar file of a drop.

    `name` is relative to the drop's folder, `samples` counts the used samples, and `sha256` is the file's digest.
    """

    name: str
    split: Split
    samples: NonNegativeInt
    size: NonNegativeInt
    sha256: str


class LeftOut(Record):
    """A sample or file that cannot be used, and the cause. `where` is its shard, or the file that it comes from."""

    where: str
    key: str
    cause: str

    @property
    def place(self) -> str:
        """Return the sample's file, and its key if this is not part of the file's name."""
        return self.where if self.where.startswith(self.key) else f"{self.where}: {self.key}"


class Reading(Record):
    """The counts from reading a drop's source. They are a report, and not part of the drop's identity.

    `labels_from` is folder, cls, txt, json:FIELD or csv. `not_samples` counts, by kind, every file that is neither a
    sample nor left out: files with labels, other files next to images, and stray files such as `.DS_Store`. `notes` are
    sentences for people.
    """

    labels_from: str
    not_samples: dict[str, NonNegativeInt] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class SampleList(Record):
    """The file of a drop with its sample table. It has the key, class, content digest and use of every sample."""

    name: str
    size: NonNegativeInt
    sha256: str


class Change(Record):
    """The change of one sample of a drop by an amendment."""

    drop: str
    row: NonNegativeInt
    """Row of the sample in the drop's sample list."""
    key: str
    content: str
    """Content digest of the sample, in hex."""
    split: Split
    before: str
    """Class of the sample before the amendment."""
    after: str | None
    """Class of the sample after the amendment. None: no later run uses it."""
    reason: str
    author: str


class Amendment(Record):
    """Corrections of committed drops, in `amendments/<sequence>.json`.

    An amendment never changes. Later amendments take precedence.
    """

    sequence: NonNegativeInt
    at: AwareDatetime
    changes: tuple[Change, ...]
    upload: str | None = None
    """The upload that became this amendment. It had new labels for images of earlier drops, and no new image."""

    def __str__(self) -> str:
        """Return the numbers of labels that the amendment changed and of samples that it removed, by drop."""
        relabelled = Counter(change.drop for change in self.changes if change.after is not None)
        removed = Counter(change.drop for change in self.changes if change.after is None)
        found = ((relabelled, "relabelled"), (removed, "removed"))
        changes = "; ".join(f"{_count_by_drop(samples)} {what}" for samples, what in found if samples)
        return f"amendment {self.sequence}{f' (upload {self.upload})' if self.upload else ''}: {changes}"


NAMED_DROPS = 5
"""Number of drops that a sentence on an amendment names."""


def _count_by_drop(samples: Counter[str]) -> str:
    named = [f"{pluralize(count, 'sample')} of drop {drop}" for drop, count in sorted(samples.items())[:NAMED_DROPS]]
    others = len(samples) - len(named)
    return ", ".join([*named, f"and samples of {pluralize(others, 'other drop')}"] if others else named)


ERASED = "(erased)"
"""Replacement of the key of an erased sample. The name of a file may identify a person."""


class Erased(Record):
    """The samples that were erased from a drop's files: their rows in its sample list."""

    rows: tuple[NonNegativeInt, ...]
    digest: str
    """Digest of the manifest after the erasure. `Drop.digest` stays the digest of the committed manifest, because plans
    contain it."""


class Uploaded(Record):
    """The number, and the size in bytes, of a producer's files for a drop. These files stay in the store."""

    files: NonNegativeInt
    size: NonNegativeInt


class Drop(Record):
    """A drop's manifest, `drops/<id>/drop.json`. It is written last and makes the drop visible.

    `classes` are the names of this drop's classes. Amendments append new names. `counts[split][class]` is the
    number of samples of each split and class. A split without its own shards is held out of train by a hash of the
    sample's content, and `held_out[split]` is its share. `left_out` has the bad samples that the task's limit allowed.
    `sample_list` states the use of each sample. In manifests without one, samples are held out by a hash of their key.
    `source` identifies the packed files. `uploaded` counts these files if they are in the store. `digest` covers
    everything but `id`, `committed_at` and `reading` (how the samples were found).
    """

    id: str
    task: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    counts: dict[Split, dict[str, NonNegativeInt]]
    held_out: dict[Split, HeldOut]
    left_out: tuple[LeftOut, ...] = ()
    reading: Reading | None = None
    sample_list: SampleList | None = None
    source: str | None = None
    uploaded: Uploaded | None = None
    erased: Erased | None = None
    changes: tuple[Change, ...] = ()
    """Changes of the samples by amendments. The manifest in the store has none."""
    erased_since: NonNegativeInt = 0
    """Number of samples that were erased after this version of the drop. Its digest still includes them, and `counts`
    leaves them out."""
    digest: str
    committed_at: AwareDatetime

    def to_bytes(self) -> bytes:
        """Return canonical JSON without `schema_version`.

        Earlier versions include unknown fields in the digest that they compute.
        """
        return canonical_json(self.model_dump(mode="json"))

    @property
    def removed(self) -> tuple[Change, ...]:
        """Return the amendments' changes that removed samples which are still in the shards."""
        erased = frozenset(self.erased.rows if self.erased else ())
        return tuple(change for change in self.changes if change.after is None and change.row not in erased)

    @property
    def decoded_digest(self) -> str:
        """Return the identity of the drop's samples in caches. An erasure changes it."""
        return digest([self.digest, self.erased.rows]) if self.erased else self.digest

    def samples(self, split: Split) -> int:
        """Return the number of samples in a split."""
        return sum(self.counts.get(split, {}).values())


class DropRef(Record):
    """A dataset's reference to a drop."""

    id: str
    digest: str
    samples: int
    """Number of training samples."""


class Dataset(Record):
    """An ordered list of drops and the class map over them: class k is `classes[k]`, append-only."""

    drops: tuple[DropRef, ...]
    classes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return the identity of the data: the digest of the drops' digests, in order."""
        return digest([drop.digest for drop in self.drops])

    @property
    def samples(self) -> int:
        """Return the number of training samples."""
        return sum(drop.samples for drop in self.drops)


LONGEST_CLASS_NAME = 255
"""Largest number of characters in a class's name."""


def clean_class_name(text: str) -> str:
    """Return a class's name in the form in which it is stored. Raises `DropError` if it is not a name.

    Space around the name is removed, such as the line break that `echo` writes. Names that look the same become one
    name: for example, some systems write é as one character, and others as two.
    """
    name = compose(text.strip())
    if not name:
        raise DropError("its class has no name")
    if len(name) > LONGEST_CLASS_NAME:
        raise DropError(f"its class name has {len(name):,} characters: shorten it to {LONGEST_CLASS_NAME} at most")
    if not {"Cc", "Cs"}.isdisjoint(map(unicodedata.category, name)):
        raise DropError(
            f"its class name {name!r} contains control characters, or is not text in UTF-8: rename the class"
        )
    return name


@lru_cache
def canonical_class_name(text: str) -> str:
    """Return a class's name in the form for new drops: without invisible characters. Raises `DropError` if it is no
    name.

    Byte-order marks, zero-width characters and soft hyphens are removed. A no-break space becomes a plain space.
    Committed drops keep their names (`clean_class_name`).
    """
    seen = (character for character in text if unicodedata.category(character) != "Cf")
    return clean_class_name("".join(" " if unicodedata.category(one) == "Zs" else one for one in seen))


def compose(text: str) -> str:
    """Return a string in Unicode's form NFC. In this form, strings that look the same are equal."""
    return unicodedata.normalize("NFC", text)


DROP_ID = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
BYTES_A_SAMPLE = 512
"""Smallest size of a sample in a tar file, in bytes: the size of its header."""


LATER_FIELDS = frozenset({"sample_list", "source", "uploaded"})
"""Fields that the first manifests did not have."""

OUTSIDE_DIGEST = {"id", "committed_at", "digest", "left_out", "changes", "reading", "erased", "erased_since"}
"""Fields that the digest leaves out, or includes in another form."""


def drop_digest(drop: Drop) -> str:
    """Return the identity of a drop's content: everything but its id, its commit time, and the wording of causes.

    Empty fields of `LATER_FIELDS`, and empty unknown fields, are left out. Drops that were packed before those fields
    existed therefore keep their digest. A new field that is only a report belongs in `reading`.
    """
    content = drop.model_dump(mode="json", exclude=OUTSIDE_DIGEST)
    first = Drop.model_fields.keys() - LATER_FIELDS
    content = {name: value for name, value in content.items() if name in first or value is not None}
    if drop.left_out:
        content["left_out"] = [[bad.where, bad.key] for bad in drop.left_out]
    if drop.erased:
        content["erased"] = [drop.digest, drop.erased.rows]
    return digest(content)


Changes = Sequence[Sequence[Change]]
"""The changes of one drop, by amendment, oldest first."""


def changes_by_drop(amendments: Iterable[Amendment]) -> Mapping[str, Changes]:
    """Return the changes of each drop. Other drops have none."""
    found = defaultdict[str, list[list[Change]]](list)
    for amendment in amendments:
        groups = defaultdict[str, list[Change]](list)
        for change in amendment.changes:
            groups[change.drop].append(change)
        for drop, changes in groups.items():
            found[drop].append(changes)
    return found


def amend(drop: Drop, by_amendment: Changes) -> Drop:
    """Return a drop after these changes, with its new classes, counts and digest.

    A sample that has its first class again counts as unchanged. A drop without changes is returned unchanged.
    """
    all_changes = list(chain.from_iterable(by_amendment))
    first_class = {change.row: change.before for change in reversed(all_changes)}
    latest = {change.row: change.model_copy(update={"before": first_class[change.row]}) for change in all_changes}
    changes = tuple(change for _, change in sorted(latest.items()) if change.after != change.before)
    if not changes:
        return drop
    named = [change.after for change in changes if change.after is not None]
    return drop.model_copy(
        update={
            "classes": tuple(dict.fromkeys([*drop.classes, *named])),
            "counts": _recount(drop, [(change.split, change.before, change.after) for change in changes]),
            "changes": changes,
            "digest": digest([drop.digest, [[change.row, change.after] for change in changes]]),
        }
    )


def _recount(drop: Drop, moved: Iterable[tuple[Split, str, str | None]]) -> dict[Split, dict[str, int]]:
    """Return a drop's counts after samples of a split have moved from one class to another, or were removed."""
    counts = {split: Counter(each) for split, each in drop.counts.items()}
    for split, before, after in moved:
        counts[split][before] -= 1
        if after is not None:
            counts[split][after] += 1
    return {split: {name: number for name, number in each.items() if number} for split, each in counts.items()}


def without_erased(version: Drop, newest: Drop) -> Drop:
    """Return an earlier version of a drop without the samples that were erased later. Its digest stays the same."""
    if version.erased is None:
        return version
    erased, then = set(version.erased.rows), {change.row: change.after for change in version.changes}
    since = [
        (change.split, class_then, None)
        for change in newest.changes
        if change.row in erased and (class_then := then.get(change.row, change.before)) is not None
    ]
    return version.model_copy(update={"counts": _recount(version, since), "erased_since": len(since)})


def parse_manifest(data: bytes) -> Drop:
    """Return the manifest in the bytes. Raises `DropError` if they contain none. The caller adds the file's name."""
    try:
        drop = Drop.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise DropError(f"not a drop's manifest: {field}: {first['msg']}") from error
    for problem in _problems(drop):
        raise DropError(problem)
    return drop


def _problems(drop: Drop) -> Iterator[str]:
    if (drop.erased.digest if drop.erased else drop.digest) != drop_digest(drop):
        yield "its digest does not match its content: it was changed after it was written"
    if not DROP_ID.fullmatch(drop.id):
        yield f"{drop.id!r} is not a valid drop id"
    if len(set(drop.classes)) < len(drop.classes):
        yield "a class is listed twice"
    if not set(chain.from_iterable(drop.counts.values())).issubset(drop.classes):
        yield "it counts samples of a class that is not among its classes"
    if drop.changes or drop.erased_since:
        yield "it contains amendments, but these belong in separate files"
    if drop.sample_list and not is_key(drop.sample_list.name):
        yield f"{drop.sample_list.name!r} cannot be a file's name"
    for shard in drop.shards:
        if not is_key(shard.name):
            yield f"{shard.name!r} cannot be a shard's name"
        if shard.samples * BYTES_A_SAMPLE > shard.size:
            yield f"{shard.name} cannot hold {shard.samples:,} samples in {shard.size:,} bytes"
