"""A run's learning-speed index in the store: one file for each drop, read only when it is needed."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from support.histories import result
from support.trainings import TASK, commit_drops, context_of, plan_of, stored_plan

from retrain.config.recipe import OldNew, Uniform
from retrain.errors import RunError
from retrain.pipeline.context import Context
from retrain.pipeline.train import prepare, train_plan
from retrain.recipe.learning_speed import Counters
from retrain.records import Dataset, Plan
from retrain.store import LocalStore
from retrain.store.runs import READ_AHEAD, RunFiles
from retrain.store.task_store import TaskStore
from retrain.training.index_files import read_counters, read_known_counters, write_counters

SIZES = (30, 20, 50, 10, 40, 60, 25, 15)


@dataclass
class RecordingStore(LocalStore):
    """A local store that records which files of a learning-speed index were read."""

    root: Path
    reads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.root)

    def read(self, key: str) -> tuple[bytes, str]:
        if "learning_speed/" in key:
            self.reads.append(Path(key).stem)
        return super().read(key)


def counters(samples: int, first: int) -> Counters:
    """Return counters that differ for all samples."""
    number = torch.arange(first, first + samples)
    return Counters(number.half(), (number / 2).half(), number / 3)


@pytest.fixture
def ended(tmp_path: Path) -> RunFiles:
    """Return the files of an ended run on eight drops."""
    plan = plan_of(sizes=SIZES)
    files = TaskStore(RecordingStore(tmp_path), "pets").run(plan.run_id)
    files.write_plan(plan)
    firsts = [sum(SIZES[:k]) for k in range(len(SIZES))]
    digest = write_counters(files, plan.dataset, (counters(*each) for each in zip(SIZES, firsts, strict=True)))
    files.write_result(result("completed").model_copy(update={"index_digest": digest}))
    return files


def dataset(files: RunFiles, *drops: int) -> Dataset:
    """Return a dataset of some of the run's drops, and of a new drop."""
    known = [files.plan().dataset.drops[k] for k in drops]
    new = known[0].model_copy(update={"id": "d-new", "samples": 7})
    return Dataset(drops=(*known, new), classes=files.plan().dataset.classes)


def test_counters_are_read_for_known_drops_and_zero_for_new_ones(ended: RunFiles) -> None:
    found = read_counters(ended, dataset(ended, 0, 2, 7), known=3)
    expected = torch.tensor([*range(30), *range(50, 100), *range(235, 250), *[0] * 7])
    assert found.seen.tolist() == expected.tolist()
    assert torch.equal(found.loss, expected / 3)
    assert found.seen.dtype == found.correct.dtype == torch.float16


def test_few_learning_speed_files_are_prefetched(ended: RunFiles) -> None:
    parts = read_known_counters(ended, dataset(ended, *range(8)), known=8)
    next(parts)
    assert isinstance(ended.objects, RecordingStore)
    assert len(ended.objects.reads) <= READ_AHEAD + 1
    assert len(list(parts)) == 7
    assert sorted(ended.objects.reads) == [f"d-{k}" for k in range(8)]


def test_damaged_learning_speeds_of_a_removed_drop_are_reported(ended: RunFiles) -> None:
    key = ended.keys.learning_speed(ended.run_id, "d-7")
    data = ended.objects.read(key)[0]
    ended.objects.write(key, data[:-1] + bytes([data[-1] ^ 1]))
    parts = read_known_counters(ended, dataset(ended, 0, 1), known=2)
    assert [len(next(parts).seen) for _ in range(2)] == [30, 20]
    with pytest.raises(RunError, match="is not the learning-speed index that the run ended with"):
        next(parts)
    with pytest.raises(RunError, match="is not the learning-speed index that the run ended with"):
        read_counters(ended, dataset(ended, 0, 1), known=2)


def continued(place: Path, sampling: Uniform | OldNew | None) -> tuple[Context, RecordingStore, Plan]:
    """Return a context, its store, and a plan that continues from an ended run."""
    commit_drops(place)
    parent = stored_plan(place, drops=1)
    train_plan(context_of(place), parent)
    recipe = TASK.recipe.model_copy(update={"sampling": sampling} if sampling else {})
    plan = stored_plan(place, drops=2, parent=parent, task=TASK.model_copy(update={"recipe": recipe}))
    store = RecordingStore(place / "store")
    return replace(context_of(place), store=TaskStore(store, TASK.name)), store, plan


@pytest.mark.parametrize(("sampling", "before"), [(Uniform(), 0), (OldNew(), 0), (None, 1)])
def test_only_easy_hard_sampling_reads_learning_speeds_early(
    tmp_path: Path, sampling: Uniform | OldNew | None, before: int
) -> None:
    context, store, plan = continued(tmp_path, sampling)
    prepare(context, plan)
    assert store.reads == [plan.dataset.drops[0].id] * before


def test_uniform_sampling_also_continues_learning_speeds(tmp_path: Path) -> None:
    context, store, plan = continued(tmp_path, Uniform())
    train_plan(context, plan)
    assert store.reads == [plan.dataset.drops[0].id]
    assert plan.parent
    old = read_counters(context.files(plan.parent), plan.dataset, 1)
    new = read_counters(context.files(plan.run_id), plan.dataset, 2)
    own = new.seen.float() - 0.5 * old.seen.float()
    assert own.sum() == 32 * plan.iterations
    assert (own >= 0).all()
