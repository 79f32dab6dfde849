"""Subsets of data sets, and changed copies of them, written as image folders."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from itertools import groupby
from pathlib import Path

from retrain.data.labels import Sample
from retrain.data.source import read_source
from retrain.data.staging import Staging, split_into_parts, stable_hash
from retrain.errors import StudyError
from retrain.experiments.regimes.images import apply_shift, coarse_class
from retrain.experiments.regimes.settings import Shift
from retrain.experiments.settings import Data, Split

Order = Callable[[Sample], bytes | float]
"""Sort key of samples."""


SHIFTS: tuple[Shift, ...] = ("inverted", "blurred", "posterised")
"""Shifts that change a picture to another domain. They are applied in this order."""


def is_train(sample: Sample) -> bool:
    """Return whether a sample is a training sample."""
    return sample.split in (None, "train")


def rename_to_superclasses(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Yield CIFAR-100's samples with their superclasses. Raises `StudyError` for a class of another data set."""
    for sample in samples:
        try:
            superclass = coarse_class(sample.class_name)
        except KeyError:
            raise StudyError(
                f"class {sample.class_name}: only cifar100 has superclasses. Remove `superclasses`"
            ) from None
        yield replace(sample, class_name=superclass, stem=f"{sample.class_name}-{sample.stem}")


def thin(samples: Iterable[Sample], data: Data) -> Iterator[Sample]:
    """Yield a random subset of each class and split, of the size in the data set's settings."""
    everything = sorted(samples, key=lambda sample: sample.sort_key)
    kept = set(sorted({sample.class_name for sample in everything})[: data.classes])
    wanted = (sample for sample in everything if sample.class_name in kept)
    for _, group in groupby(wanted, key=lambda sample: (sample.class_name, sample.split)):
        members = sorted(group, key=lambda sample: stable_hash(sample.key, 0))
        yield from members[: data.per_class if is_train(members[0]) else data.held_out_per_class]


def hold_out(samples: Iterable[Sample], share: float, seed: int) -> Iterator[Sample]:
    """Yield samples with a share of the training samples held out for val, drawn with the seed.

    Nothing changes if there is a val split.
    """
    everything = list(samples)
    train = sorted(filter(is_train, everything), key=lambda sample: stable_hash(sample.key, seed))
    held_out = set() if any(each.split == "val" for each in everything) else {*train[: round(len(train) * share)]}
    for sample in everything:
        yield replace(sample, split="val" if sample in held_out else sample.split or "train")


def draw_twin(data: bytes) -> bytes:
    """Change a picture to another domain (inverted, blurred and posterized). Return it as a PNG file."""
    return reduce(apply_shift, SHIFTS, data)


def write_folder(samples: Iterable[Sample], folder: Path, twin: bool = False) -> None:
    """Write samples as an image folder with their splits. With `twin`, change each picture to another domain."""
    for sample in samples:
        extension = "png" if twin else sample.extension
        path = folder / (sample.split or "") / sample.class_name / f"{sample.stem}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = sample.entry.read()
        path.write_bytes(draw_twin(data) if twin else data)


def in_steps(samples: Sequence[Sample], split: Split, order: Order) -> list[list[Sample]]:
    """Return drops with `step` training images each, in the given order.

    Each later drop also has one image of val and one of test, because every drop needs them. The first drop has all
    other val and test images, as in Ash & Adams. Raises `StudyError` if there are too few samples.
    """
    step, steps = split.step or 0, split.steps or 0
    train = sorted(filter(is_train, samples), key=order)
    held_out = [[each for each in samples if each.split == name] for name in ("val", "test")]
    if len(train) < step * steps or min(map(len, held_out)) < steps:
        raise StudyError(
            f"{steps} steps of {step} need {steps * step:,} training images, {steps} of val and {steps} of test; "
            f"there are {len(train):,}, {len(held_out[0]):,} and {len(held_out[1]):,}: reduce `step` or `steps`"
        )
    parts = [train[number * step : (number + 1) * step] for number in range(steps)]
    for members in held_out:
        parts[0].extend(members[steps - 1 :])
        for part, member in zip(parts[1:], members, strict=False):
            part.append(member)
    return parts


def two_parts(sources: Sequence[Path], split: Split, folder: Path, seed: int) -> list[Path]:
    """Write two parts as image folders: two sources, or one source that is divided by classes.

    Of the training samples in the second part, `split.kept` percent are written. Raises `DropError` if the sizes do not
    add up to the number of classes.
    """
    samples = [read_source(source) for source in sources]
    first, second = (
        samples if len(samples) == 2 else split_into_parts(samples[0], Staging.parse("classes", split.sizes, seed))
    )
    for name, part in (("1", first), ("2", keep_percent(second, split.kept, seed))):
        write_folder(part, folder / name)
    return [folder / "1", folder / "2"]


def keep_percent(samples: Iterable[Sample], percent: int, seed: int) -> Iterator[Sample]:
    """Yield a random percentage of each class's training samples, but at least one, and all val and test samples."""
    for _, group in groupby(samples, key=lambda sample: (sample.class_name, sample.split)):
        members = sorted(group, key=lambda sample: stable_hash(sample.key, seed))
        yield from members[: max(1, len(members) * percent // 100)] if is_train(members[0]) else members
