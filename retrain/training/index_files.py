"""The learning-speed index of a run in the store: counters to and from the tensors that a run's files hold."""

from collections.abc import Iterable, Iterator

from retrain.errors import RunError
from retrain.recipe.learning_speed import STORED_DTYPE, Counters, from_tensors, split, to_tensors
from retrain.records import Dataset
from retrain.store.runs import RunFiles


def write_counters(files: RunFiles, dataset: Dataset, parts: Iterable[Counters]) -> str:
    """Write a run's counters, those of one drop after another, and return the digest of the index."""
    pairs = zip(dataset.drops, parts, strict=True)
    return files.write_index((drop.id, to_tensors(part)) for drop, part in pairs)


def read_counters(files: RunFiles, dataset: Dataset, known: int) -> Counters:
    """Return the counters over a dataset whose first `known` drops the run was trained on; zeros for the others.

    Raises as `read_known_counters` does.
    """
    whole = Counters.zeros(dataset.samples, dtype=STORED_DTYPE)
    views = split(whole, [drop.samples for drop in dataset.drops])
    for part, view in zip(read_known_counters(files, dataset, known), views, strict=False):
        view.copy(part)
    return whole


def read_known_counters(files: RunFiles, dataset: Dataset, known: int) -> Iterator[Counters]:
    """Yield the counters of the first `known` drops of a dataset, on which the run was trained in that order.

    Drops that the run was trained on and the dataset lacks are in quarantine. Raises `RunError`, after the last one, if
    the index is not the one that the run's result names, or at once if it counts another number of samples.
    """
    if not known:
        return
    for drop, tensors in files.index({drop.id for drop in dataset.drops[:known]}):
        part = from_tensors(tensors)
        if len(part.seen) != drop.samples:
            raise RunError(f"{files.run_id} counted {len(part.seen):,} samples in drop {drop.id}, not {drop.samples:,}")
        yield part
