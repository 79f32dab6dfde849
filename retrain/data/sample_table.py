"""The sample table of a drop: key, class, content digest and use of every sample, in one file of arrays.

The file is next to the shards, and the manifest contains the file's digest."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from retrain.config import SPLITS, Split
from retrain.data.content import CONTENT_BYTES, ImageFacts, difference_hash, mean_brightness
from retrain.errors import DamagedDrop
from retrain.records import Change, Drop, SampleList
from retrain.store.base import Missing
from retrain.store.task_store import TaskStore

Use = Literal["train", "val", "test", "duplicate", "conflict", "bad", "removed"]
"""The use of a sample: its split, or the reason why no run uses it. duplicate: a drop already has the image; conflict:
the drop has the image with two classes; bad: it cannot be read; removed: an amendment or an erasure removed it."""

USES: tuple[Use, ...] = get_args(Use)
NOWHERE = -1
"""Shard of a sample that is in no shard, and class of a sample that has none."""


COLUMNS: Mapping[str, tuple[str, *tuple[int, ...]]] = {
    "content": (f"S{CONTENT_BYTES}",),
    "likeness": ("uint8", 8),
    "label": ("int32",),
    "use": ("uint8",),
    "shard": ("int32",),
    "width": ("int32",),
    "height": ("int32",),
    "brightness": ("uint8",),
    "thumbnail": ("uint8", 64),
}
"""Type of each column of a sample table, and the number of its values per sample if it has several."""


class SampleRow(NamedTuple):
    """One sample of a drop."""

    key: str
    class_name: str | None
    use: Use
    shard: int
    """Position of the sample's shard in the manifest. `NOWHERE` if the sample was not packed."""
    facts: ImageFacts | None
    """Facts about the image. None for a bad sample."""


@dataclass(frozen=True, eq=False)
class SampleTable:
    """A drop's samples. Samples of one shard have the order of the shard. Samples that were not packed come last."""

    keys: tuple[str, ...]
    classes: tuple[str, ...]
    content: NDArray[np.bytes_]
    """Content digests, S16 [N]. Empty for a bad sample."""
    likeness: NDArray[np.uint8]
    """Hashes for finding near-duplicates, uint8 [N, 8]."""
    label: NDArray[np.int32]
    """int32 [N], indices into `classes`."""
    use: NDArray[np.uint8]
    """uint8 [N], indices into `USES`."""
    shard: NDArray[np.int32]
    """Positions in the manifest's shards, or `NOWHERE`, int32 [N]."""
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    brightness: NDArray[np.uint8]
    thumbnail: NDArray[np.uint8]
    """uint8 [N, 64]. Zero in tables of versions without thumbnails."""

    @classmethod
    def of(cls, rows: Iterable[SampleRow]) -> Self:
        """Return the table of these rows."""
        rows = tuple(rows)
        classes = sorted({row.class_name for row in rows if row.class_name is not None})
        label_of = {name: label for label, name in enumerate(classes)}
        nothing = ImageFacts(b"", 0, 0, bytes(72), bytes(64))
        facts = [row.facts or nothing for row in rows]
        parts = np.frombuffer(b"".join(fact.parts for fact in facts), np.uint8).reshape(-1, 8, 9)
        return cls(
            keys=tuple(row.key for row in rows),
            classes=tuple(classes),
            content=np.array([fact.content for fact in facts], dtype=f"S{CONTENT_BYTES}"),
            likeness=difference_hash(parts),
            label=np.array([label_of.get(row.class_name or "", NOWHERE) for row in rows], np.int32),
            use=np.array([USES.index(row.use) for row in rows], np.uint8),
            shard=np.array([row.shard for row in rows], np.int32),
            width=np.array([fact.width for fact in facts], np.int32),
            height=np.array([fact.height for fact in facts], np.int32),
            brightness=mean_brightness(parts),
            thumbnail=np.frombuffer(b"".join(fact.thumbnail for fact in facts), np.uint8).reshape(-1, 64),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def class_of(self, row: int) -> str:
        """Return a row's class."""
        return self.classes[int(self.label[row])]

    def digest_of(self, row: int) -> str:
        """Return the content digest of a row's sample, in hex."""
        return bytes(self.content[row]).ljust(CONTENT_BYTES, b"\0").hex()

    def is_used(self) -> NDArray[np.bool_]:
        """Return whether each row is in a split, bool [N]."""
        return self.use < len(SPLITS)

    def differs_from(self, changes: Iterable[Change]) -> bool:
        """Return whether a change is of another image than the image in its row."""
        return any(one.row >= len(self) or self.digest_of(one.row) != one.content for one in changes)

    def counts(self) -> dict[Split, dict[str, int]]:
        """Return the number of samples of each class in each split."""
        counted: dict[Split, dict[str, int]] = {}
        for place, split in enumerate(SPLITS):
            numbers = np.bincount(self.label[self.use == place], minlength=len(self.classes))
            counted[split] = {name: int(number) for name, number in zip(self.classes, numbers, strict=True) if number}
        return counted

    def of_shard(self, position: int) -> Iterator[int]:
        """Yield the rows of a shard's samples, in its order."""
        return iter(np.flatnonzero(self.shard == position).tolist())

    def to_bytes(self) -> bytes:
        """Return the bytes of the table's file. Equal tables give equal bytes."""
        names, keys = ("\0".join(texts).encode() for texts in (self.classes, self.keys))
        arrays = {field.name: getattr(self, field.name) for field in fields(self)[2:]}
        arrays["content"] = _as_bytes(self.content)
        texts = {"classes": np.frombuffer(names, np.uint8), "keys": np.frombuffer(keys, np.uint8)}
        return save({name: np.ascontiguousarray(array) for name, array in (arrays | texts).items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the table in a file. Raises `ValueError` if the file is not a table."""
        try:
            arrays = load(data)
            names, keys = (arrays.pop(name).tobytes().decode() for name in ("classes", "keys"))
            content = arrays.pop("content")
            arrays.setdefault("thumbnail", np.zeros((len(content), 64), np.uint8))
            table = cls(
                keys=tuple(keys.split("\0")) if keys else (),
                classes=tuple(names.split("\0")) if names else (),
                content=np.frombuffer(content.tobytes(), f"S{CONTENT_BYTES}"),
                **arrays,
            )
        except (SafetensorError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"not a sample table: {error}") from error
        table._check()
        return table

    def _check(self) -> None:
        """Raise `ValueError` if a column has another type or shape, or a number that names no class or no use."""
        for name, (kind, *width) in COLUMNS.items():
            column = getattr(self, name)
            if column.dtype != kind or column.shape != (len(self), *width):
                raise ValueError(f"its column {name} is {column.dtype} {column.shape}, with {len(self):,} samples")
        if np.any((self.label < NOWHERE) | (self.label >= len(self.classes))) or np.any(self.use >= len(USES)):
            raise ValueError("a sample has the number of a class, or of a use, that does not exist")


def _as_bytes(content: NDArray[np.bytes_]) -> NDArray[np.uint8]:
    return np.frombuffer(content.tobytes(), np.uint8).reshape(-1, CONTENT_BYTES)


def name_table(data: bytes) -> SampleList:
    """Return a manifest's entry for a table's file.

    The file's name contains a digest. Therefore writers of different tables do not overwrite each other's files.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    return SampleList(name=f"samples-{sha256[:8]}.safetensors", size=len(data), sha256=sha256)


def read_table(drop: Drop, store: TaskStore) -> SampleTable | None:
    """Return a drop's table with its amendments applied, or None if its manifest names no table.

    Raises `DamagedDrop` if the file's digest differs from the manifest.
    """
    if drop.sample_list is None:
        return None
    key = store.keys.drop_file(drop.id, drop.sample_list.name)
    where = f"{store.url}/{key}"
    try:
        data = store.objects.read(key)[0]
        if hashlib.sha256(data).hexdigest() != drop.sample_list.sha256:
            raise DamagedDrop(
                drop.id, f"{where}: its SHA-256 differs from the manifest's. Restore the file from a copy of the store"
            )
        table = SampleTable.from_bytes(data)
        if np.any((table.shard < NOWHERE) | (table.shard >= len(drop.shards))):
            raise ValueError("a sample is in a shard that the manifest does not name")
        if table.differs_from(drop.changes):
            raise DamagedDrop(
                drop.id,
                f"{where}: amendments correct other images than this drop has, so it was replaced under its id. "
                "Restore its files from a copy of the store, or delete them and upload the new images under another id",
            )
        return amend_table(table, drop)
    except Missing as error:
        raise DamagedDrop(drop.id, f"{where} is missing: restore the file from a copy of the store") from error
    except ValueError as error:
        raise DamagedDrop(drop.id, f"{where}: {error}. Restore the file from a copy of the store") from error


def amend_table(table: SampleTable, drop: Drop) -> SampleTable:
    """Return a table with a drop's amendments applied. Erased samples get the use `removed`."""
    named = [change.after for change in drop.changes if change.after is not None]
    classes = tuple(dict.fromkeys([*table.classes, *named]))
    label_of = {name: label for label, name in enumerate(classes)}
    label, use = table.label.copy(), table.use.copy()
    for change in drop.changes:
        if change.after is None:
            use[change.row] = USES.index("removed")
        else:
            label[change.row] = label_of[change.after]
    if drop.erased:
        use[list(drop.erased.rows)] = USES.index("removed")
    return replace(table, classes=classes, label=label, use=use)
