"""Count a drop's samples as they are validated, and build its manifest."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from retrain.config import Split
from retrain.data.dataset import split_of
from retrain.data.files import SPLITS
from retrain.data.labels import NAMED, Unread, name_files
from retrain.errors import DropError
from retrain.records import Drop, LeftOut, Reading, Shard
from retrain.records.drop import drop_digest


class BadSamples:
    """The bad samples of one drop, as they are found."""

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._found: list[LeftOut] = []

    def add(self, place: str, bad: LeftOut) -> None:
        """Leave a sample out. Raises `DropError`, naming its place, if the task allows none."""
        if self._max_share == 0:
            raise DropError(f"{place}: {bad.cause}")
        self._found.append(bad)

    def add_unread(self, unread: Sequence[Unread]) -> None:
        """Leave files out that are no samples. Raises `DropError`, naming the first ones, if the task allows none."""
        if unread and self._max_share == 0:
            raise DropError(name_files(unread))
        self._found.extend(LeftOut(where=bad.place, key=bad.place, cause=bad.cause) for bad in unread)

    def settle(self, samples: int) -> tuple[LeftOut, ...]:
        """Return what was left out beside so many good samples. Raises `DropError` if that is too many."""
        total = samples + len(self._found)
        if len(self._found) > self._max_share * total:
            named = "; ".join(f"{bad.where}: {bad.key}: {bad.cause}" for bad in self._found[:NAMED])
            raise DropError(
                f"{len(self._found):,} of {total:,} samples are bad, and data.max_bad_share allows "
                f"{self._max_share:.2%}: {named}{'; ...' if len(self._found) > NAMED else ''}"
            )
        return tuple(self._found)


class ManifestBuilder:
    """Counts a drop's good samples by split and class."""

    def __init__(self, held_out: dict[Split, float]) -> None:
        self._held_out = held_out
        self._classes = set[str]()
        self._counts: dict[Split, Counter[str]] = {split: Counter() for split in SPLITS}

    def add(self, key: str, split: Split, class_name: str) -> None:
        """Count a sample that lies in a shard of `split`."""
        self._classes.add(class_name)
        self._counts[split_of(key, split, self._held_out)][class_name] += 1

    def manifest(
        self,
        drop_id: str | None,
        task: str,
        shards: Iterable[Shard],
        bad: BadSamples,
        root: str,
        reading: Reading,
    ) -> Drop:
        """Return the manifest of a drop, called after its content where it has no id.

        Raises `DropError` if too many samples were bad, or a split is empty.
        """
        samples = sum(counts.total() for counts in self._counts.values())
        left_out = bad.settle(samples)
        for split, counts in self._counts.items():
            if not counts:
                share = self._held_out.get(split)
                why = "none was left" if share is None else f"none was drawn for its share of {share:g}"
                raise DropError(f"{root}: no {split} samples among {samples}: {why}")
        drop = Drop(
            id="",
            task=task,
            classes=tuple(sorted(self._classes)),
            shards=tuple(shards),
            counts={split: dict(counts) for split, counts in self._counts.items()},
            held_out=self._held_out,
            left_out=left_out,
            reading=reading,
            digest="",
            committed_at=datetime.now(UTC),
        )
        digest = drop_digest(drop)
        return drop.model_copy(update={"id": drop_id or f"d-{digest[:12]}", "digest": digest})
