"""Data for transfer: one data set, or half the classes of one, and then some of another (Ash & Adams, figure 3)."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from retrain.data.source import Sample, read_source
from retrain.data.staging import Staging, lot, parts
from retrain.study.settings import Split
from retrain.study.thinning import write


def two_parts(sources: Sequence[Path], split: Split, folder: Path) -> list[Path]:
    """Write both parts as image folders: two sources, or one that is cut by classes; of the second so much as is kept.

    Raises `DropError` if the sizes are not the number of classes.
    """
    samples = [read_source(source) for source in sources]
    first, second = samples if len(samples) == 2 else parts(samples[0], Staging.parse("classes", split.sizes))
    for name, part in (("1", first), ("2", keep(second, split.kept))):
        write(part, folder / name)
    return [folder / "1", folder / "2"]


def keep(samples: Iterable[Sample], percent: int) -> Iterator[Sample]:
    """Yield so many percent of each class's training samples, one at least, chosen by lot, and all others."""
    for (_, split), group in groupby(samples, key=lambda sample: (sample.class_name, sample.split)):
        members = sorted(group, key=lambda sample: lot(sample.key, 0))
        is_train = split in (None, "train")
        yield from members[: max(1, len(members) * percent // 100)] if is_train else members
