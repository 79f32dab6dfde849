"""Subsets of data sets: a few classes or images of each, written as image folders."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from retrain.data.source import Sample, read_source
from retrain.data.staging import Staging, split_into_parts, stable_hash
from retrain.experiments.settings import Data, Split


def thin(samples: Iterable[Sample], data: Data) -> Iterator[Sample]:
    """Yield at most so many samples of each class and split as the data set's settings say, chosen by lot."""
    everything = list(samples)
    kept = set(sorted({sample.class_name for sample in everything})[: data.classes])
    wanted = (sample for sample in everything if sample.class_name in kept)
    for (_, split), group in groupby(wanted, key=lambda sample: (sample.class_name, sample.split)):
        is_train = split in (None, "train")
        limit = data.per_class if is_train else data.held_out_per_class
        yield from sorted(group, key=lambda sample: stable_hash(sample.key, 0))[:limit]


def write_folder(samples: Iterable[Sample], folder: Path) -> None:
    """Write samples as an image folder, with the splits that they have."""
    for sample in samples:
        path = folder / (sample.split or "") / sample.class_name / f"{sample.stem}.{sample.extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.entry.read())


def two_parts(sources: Sequence[Path], split: Split, folder: Path) -> list[Path]:
    """Write both parts as image folders: two sources, or one that is cut by classes; of the second so much as is kept.

    Raises `DropError` if the sizes are not the number of classes.
    """
    samples = [read_source(source) for source in sources]
    first, second = (
        samples if len(samples) == 2 else split_into_parts(samples[0], Staging.parse("classes", split.sizes))
    )
    for name, part in (("1", first), ("2", keep_percent(second, split.kept))):
        write_folder(part, folder / name)
    return [folder / "1", folder / "2"]


def keep_percent(samples: Iterable[Sample], percent: int) -> Iterator[Sample]:
    """Yield so many percent of each class's training samples, one at least, chosen by lot, and all others."""
    for (_, split), group in groupby(samples, key=lambda sample: (sample.class_name, sample.split)):
        members = sorted(group, key=lambda sample: stable_hash(sample.key, 0))
        is_train = split in (None, "train")
        yield from members[: max(1, len(members) * percent // 100)] if is_train else members
