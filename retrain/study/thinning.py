"""A data set cut down to a few images of each class, and written as an image folder."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from retrain.data.source import Sample
from retrain.data.staging import lot


def thin(samples: Iterable[Sample], per_class: int | None) -> Iterator[Sample]:
    """Yield at most so many training samples of each class, chosen by lot; other splits stay whole."""
    for (_, split), group in groupby(samples, key=lambda sample: (sample.class_name, sample.split)):
        is_train = split in (None, "train")
        yield from sorted(group, key=lambda sample: lot(sample.key, 0))[: per_class if is_train else None]


def write(samples: Iterable[Sample], folder: Path) -> None:
    """Write samples as an image folder, with the splits that they have."""
    for sample in samples:
        path = folder / (sample.split or "") / sample.class_name / f"{sample.stem}.{sample.extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.entry.read())
