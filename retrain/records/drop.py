"""Drops, their manifests, and the datasets made of them.

Manifests come from producers and are not trusted: they are checked as they are parsed."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Annotated

from pydantic import AwareDatetime, Field, NonNegativeInt, ValidationError

from retrain.config import Split
from retrain.errors import DropError
from retrain.records.base import Record, digest
from retrain.utils.text import is_key

HeldOut = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Shard(Record):
    """One tar of a drop. `name` is relative to the drop; `samples` are those used; `sha256` is of its bytes."""

    name: str
    split: Split
    samples: NonNegativeInt
    size: NonNegativeInt
    sha256: str


class LeftOut(Record):
    """A sample that no run uses, and why. `where`: its shard, or the file that it was packed from."""

    where: str
    key: str
    cause: str


class Reading(Record):
    """How a drop's source was read. It reports, and is no part of the drop's identity.

    `labels_from`: folder, cls, txt, json:FIELD or csv. `not_samples` counts, by kind, every file that is neither a
    sample nor left out: litter, files that hold labels, further files beside images. `notes` are for people.
    """

    labels_from: str
    not_samples: dict[str, NonNegativeInt] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Drop(Record):
    """A drop's manifest, `drops/<id>/drop.json`: written last, it makes the drop visible.

    `classes` are this drop's class names in order of first appearance in its shards; `counts[split][class]` are
    samples after holding out. A split without shards of its own is held out of train by a hash of the sample key:
    `held_out[split]` is its share, fixed here for good. `left_out` are the bad samples that the task's limit let pass.
    `reading` says how they were found; drops committed before there was such a report have none.
    `digest` covers everything but `id`, `committed_at` and `reading`.
    """

    id: str
    task: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    counts: dict[Split, dict[str, NonNegativeInt]]
    held_out: dict[Split, HeldOut]
    left_out: tuple[LeftOut, ...] = ()
    reading: Reading | None = None
    digest: str
    committed_at: AwareDatetime

    def samples(self, split: Split) -> int:
        """Number of samples in a split."""
        return sum(self.counts.get(split, {}).values())


class DropRef(Record):
    """A drop as a dataset names it."""

    id: str
    digest: str
    samples: int
    """Training samples."""


class Dataset(Record):
    """An ordered list of drops and the class map over them: class k is `classes[k]`, append-only."""

    drops: tuple[DropRef, ...]
    classes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Identity of the data: the drops' digests, in order."""
        return digest([drop.digest for drop in self.drops])

    @property
    def samples(self) -> int:
        """Training samples."""
        return sum(drop.samples for drop in self.drops)


LONGEST_CLASS_NAME = 255
"""Characters in a class's name."""


def clean_class_name(text: str) -> str:
    """Return a class's name as it is kept. Raises `DropError` if it is none.

    Space around it is dropped, such as the line's end that `echo` writes. One name for what reads the same: some
    systems write é as one character, others as two.
    """
    name = compose(text.strip())
    if not name:
        raise DropError("its class has no name")
    if len(name) > LONGEST_CLASS_NAME:
        raise DropError(f"its class's name has {len(name):,} characters; at most {LONGEST_CLASS_NAME} are allowed")
    if not {"Cc", "Cs"}.isdisjoint(map(unicodedata.category, name)):
        raise DropError(f"its class's name {name!r} holds control characters, or is not text in UTF-8")
    return name


def canonical_class_name(text: str) -> str:
    """Return a class's name as new drops keep it: without marks that nobody sees. Raises `DropError` if it is none.

    Byte-order marks, zero-width characters and soft hyphens go; a no-break space becomes a plain one. Committed drops
    keep the names that they have (`clean_class_name`).
    """
    seen = (character for character in text if unicodedata.category(character) != "Cf")
    return clean_class_name("".join(" " if unicodedata.category(one) == "Zs" else one for one in seen))


def compose(text: str) -> str:
    """Return a text in the form in which what reads the same is the same (NFC)."""
    return unicodedata.normalize("NFC", text)


DROP_ID = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
BYTES_A_SAMPLE = 512
"""A sample in a tar takes up its header at least."""


def drop_digest(drop: Drop) -> str:
    """Identity of a drop's content: everything but what it is called, when it came, and how a cause was worded.

    Nothing left out adds nothing: drops packed before there was a limit keep their digest.
    """
    content = drop.model_dump(mode="json", exclude={"id", "committed_at", "digest", "left_out", "reading"})
    if drop.left_out:
        content["left_out"] = [[bad.where, bad.key] for bad in drop.left_out]
    return digest(content)


def parse_manifest(data: bytes) -> Drop:
    """Return the manifest that the bytes hold. Raises `DropError`, with the cause alone, if they hold none."""
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
    if drop.digest != drop_digest(drop):
        yield "its digest does not fit its content: it was changed after it was written"
    if not DROP_ID.fullmatch(drop.id):
        yield f"{drop.id!r} is no id of a drop"
    if len(set(drop.classes)) < len(drop.classes):
        yield "a class is named twice"
    if not set(chain.from_iterable(drop.counts.values())).issubset(drop.classes):
        yield "samples are counted of a class that is not among its classes"
    for shard in drop.shards:
        if not is_key(shard.name):
            yield f"{shard.name!r} cannot be a shard's name"
        if shard.samples * BYTES_A_SAMPLE > shard.size:
            yield f"{shard.name} cannot hold {shard.samples:,} samples in {shard.size:,} bytes"
