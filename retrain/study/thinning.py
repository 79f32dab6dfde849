"""A data set cut down to a few classes, and a few images of each, and written as an image folder."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from retrain.data.source import Sample
from retrain.data.staging import lot
from retrain.study.settings import Data


def thin(samples: Iterable[Sample], data: Data) -> Iterator[Sample]:
    """Yield at most so many samples of each class and split as the data set's settings say, chosen by lot."""
    everything = list(samples)
    kept = set(sorted({sample.class_name for sample in everything})[: data.classes])
    wanted = (sample for sample in everything if sample.class_name in kept)
    for (_, split), group in groupby(wanted, key=lambda sample: (sample.class_name, sample.split)):
        is_train = split in (None, "train")
        limit = data.per_class if is_train else data.held_out_per_class
        yield from sorted(group, key=lambda sample: lot(sample.key, 0))[:limit]


def write(samples: Iterable[Sample], folder: Path) -> None:
    """Write samples as an image folder, with the splits that they have."""
    for sample in samples:
        path = folder / (sample.split or "") / sample.class_name / f"{sample.stem}.{sample.extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.entry.read())
