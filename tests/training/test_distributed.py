"""Two processes train like one: the same samples in the same batches, the same curve and counters."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.leases import wait_until
from support.processes import Pair, start, train_together
from support.trainings import (
    CPU,
    SIZE,
    TASK,
    RecordingObserver,
    commit_drops,
    context_of,
    plan_of,
    run_of,
    samples,
    states_in,
    stored_plan,
    train_in,
)
from support.writes import freeze_at_state, terminate_stopped, wait_until_stopped
from torch import Tensor, nn

from retrain.config.recipe import Adversarial, Cosine, Recipe
from retrain.config.task import Averaging, Model, NoAverage, PowerAverage, Task
from retrain.data.augment import Normalize, Rows, crop, flip
from retrain.errors import DamagedDrop, ModelError, TaskError
from retrain.pipeline.context import Context
from retrain.records import Plan, Result
from retrain.training import distributed, progress
from retrain.training.distributed import SINGLE_PROCESS, ProcessGroup, Votes
from retrain.training.evaluation import CHUNK, MeasuredScores, measure
from retrain.training.index_files import read_counters
from retrain.training.loop import run_loop
from retrain.training.setup import set_up

UNEVEN = 31
"""Batch size. One process gets 15 of the samples, and the other gets 16."""
CLOSE = {"rtol": 0, "atol": 1e-5}


class Some(ProcessGroup):
    """A process group in which only this process exists. It cannot communicate."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def task_with(model: str = "mlp", **training: object) -> Task:
    settings = {"batch_size": UNEVEN, "epochs": 4, "save_seconds": 60, **training}
    return TASK.model_copy(update={"model": Model(name=model), "training": TASK.training.model_copy(update=settings)})


def prepare(folder: Path, task: Task) -> Plan:
    """Commit two drops, train a parent on the first one, and return the plan of a continuous run on both."""
    commit_drops(folder)
    parent = stored_plan(folder, drops=1, task=task)
    train_in(folder, parent)
    return stored_plan(folder, drops=2, parent=parent, task=task)


def result_of(folder: Path, plan: Plan) -> Result:
    result = context_of(folder).files(plan.run_id).result()
    assert result
    return result


def outcome(folder: Path, plan: Plan) -> tuple[object, ...]:
    """Return the results of a run that are compared bit for bit."""
    result, curve = result_of(folder, plan), context_of(folder).files(plan.run_id).curve()
    return result.model_digest, result.index_digest, curve, result.iterations


@pytest.mark.parametrize(
    "recipe", [Recipe(preset="paper"), Recipe(preset="paper", objective=Adversarial())], ids=["l2_init", "adversarial"]
)
@pytest.mark.parametrize("averaging", [NoAverage(), PowerAverage()], ids=["last", "power"])
def test_two_processes_train_like_one(tmp_path: Path, recipe: Recipe, averaging: Averaging) -> None:
    task = task_with().model_copy(update={"recipe": recipe.model_copy(update={"schedule": Cosine(scale=0.5)})})
    one, two = tmp_path / "one", tmp_path / "two"
    plan = prepare(one, task)
    assert prepare(two, task) == plan
    plan = plan.model_copy(update={"averaging": averaging})
    for folder in (one, two):
        context_of(folder).files(plan.run_id).write_plan(plan)
    train_in(one, plan)
    assert start(train_together, two, plan).join() == [0, 0]
    assert_alike(one, two, plan)


def assert_alike(one: Path, two: Path, plan: Plan) -> None:
    """Check that curves, weights and losses are equal within float tolerance, and that the counters are equal."""
    single, double = (context_of(folder).files(plan.run_id) for folder in (one, two))
    for point, other in zip(single.curve().points, double.curve().points, strict=True):
        assert other.model_dump() == pytest.approx(point.model_dump(), abs=1e-5)
    for name, weights in single.weights().items():
        torch.testing.assert_close(double.weights()[name], weights, **CLOSE)
    expected, merged = (read_counters(files, plan.dataset, len(plan.dataset.drops)) for files in (single, double))
    assert expected.seen.max() > 1
    assert torch.equal(merged.seen, expected.seen)
    assert torch.equal(merged.correct, expected.correct)
    torch.testing.assert_close(merged.loss, expected.loss, rtol=1e-4, atol=1e-4)
    assert result_of(two, plan).machine.processes == 2


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with two drops and a parent.

    The network has batch normalization and dropout. Runs write a checkpoint at every step.
    """
    prepare(tmp_path, normalized())
    return tmp_path


def normalized() -> Task:
    return task_with(TASK.model.name, epochs=12, save_seconds=0)


def plan_in(folder: Path) -> Plan:
    return stored_plan(folder, drops=2, parent=stored_plan(folder, drops=1, task=normalized()), task=normalized())


def uninterrupted(folder: Path, plan: Plan) -> tuple[object, ...]:
    """Train to the end in two processes, remove the run's files, and return its outcome."""
    assert start(train_together, folder, plan).join() == [0, 0]
    found = outcome(folder, plan)
    store = context_of(folder).store.objects
    for entry in list(store.list(f"{TASK.name}/runs/{plan.run_id}/")):
        store.delete(entry.key)
    return found


def train_until_frozen(context: Context, plan: Plan) -> None:
    """Train in both processes. The first one suspends itself (SIGSTOP) after one or two checkpoints."""
    if context.ranks.rank == 0:
        freeze_at_state(4)
    train_together(context, plan)


def underway(folder: Path, plan: Plan) -> Pair:
    """Return two processes. The first one is suspended after one or two checkpoints."""
    pair = start(train_until_frozen, folder, plan)
    wait_until_stopped(pair.members[0])
    return pair


def test_two_killed_processes_resume_to_the_same_result(place: Path) -> None:
    plan = plan_in(place)
    expected = uninterrupted(place, plan)
    for _ in range(2):
        pair = underway(place, plan)
        for member in pair.members:
            member.kill()
        assert pair.join() == [-signal.SIGKILL] * 2
    assert start(train_together, place, plan).join() == [0, 0]
    assert outcome(place, plan) == expected
    assert states_in(place) == []


def test_preempted_rank_saves_and_both_ranks_exit_with_75(place: Path) -> None:
    plan = plan_in(place)
    expected = uninterrupted(place, plan)
    for asked in (0, 1):
        pair = underway(place, plan)
        if asked:
            pair.members[asked].terminate()
            os.kill(pair.members[0].pid or 0, signal.SIGCONT)
        else:
            terminate_stopped(pair.members[0])
        assert pair.join() == [os.EX_TEMPFAIL] * 2
    assert start(train_together, place, plan).join() == [0, 0]
    assert outcome(place, plan) == expected


def receive_from_lost_rank(context: Context) -> None:
    """Wait for a message that the second process never sends, because it is killed."""
    if context.ranks.rank:
        os.kill(os.getpid(), signal.SIGKILL)
    with context.ranks.preempt_on_lost_rank():
        dist.recv(torch.zeros(1), 1)


def test_rank_waiting_for_a_killed_rank_exits_with_75(tmp_path: Path) -> None:
    assert start(receive_from_lost_rank, tmp_path).join() == [os.EX_TEMPFAIL, -signal.SIGKILL]


def receive_from_frozen_rank(context: Context) -> None:
    """Wait for a message from the second process. It suspends itself: it stays connected, but sends no heartbeats."""
    distributed.HEARTBEAT_SECONDS, distributed.MAX_SILENCE = 0.1, 1.0
    if context.ranks.rank:
        os.kill(os.getpid(), signal.SIGSTOP)
    with context.ranks.preempt_on_lost_rank():
        dist.recv(torch.zeros(1), 1)


def test_rank_waiting_for_a_suspended_rank_exits_with_75(tmp_path: Path) -> None:
    pair = start(receive_from_frozen_rank, tmp_path)
    pair.members[0].join()
    pair.members[1].kill()
    assert pair.join() == [os.EX_TEMPFAIL, -signal.SIGKILL]


def test_error_of_rank_0_ends_the_other_ranks_without_error(tmp_path: Path) -> None:
    plan = prepare(tmp_path, task_with())
    for shard in (tmp_path / "store").rglob("train-*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    for decoded in (tmp_path / "cache").iterdir():
        decoded.unlink()
    assert start(train_together, tmp_path, plan).join() == [1, 0]


def find_damage(context: Context, plan: Plan) -> None:
    """Train in both processes. Only the second one reads the damaged drop, because its machine has no decoded copy."""
    if context.ranks.rank:
        context = replace(context, cache=context.cache / "other")
    with pytest.raises(DamagedDrop, match="SHA-256") as found:
        train_together(context, plan)
    assert found.value.drop == plan.dataset.drops[0].id


def test_damaged_drop_that_rank_1_finds_ends_rank_0_too(tmp_path: Path) -> None:
    commit_drops(tmp_path)
    train_in(tmp_path, stored_plan(tmp_path, drops=1, task=task_with()))
    for shard in (tmp_path / "store").rglob("train-*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    plan = stored_plan(tmp_path, drops=1, task=task_with(epochs=2))
    assert start(find_damage, tmp_path, plan).join() == [0, 0]


def vote_in_turn(context: Context, folder: Path) -> None:
    """Vote in both processes. The second one votes after the first, and it alone votes to stop."""
    asked = folder / "asked"
    if context.ranks.rank:
        wait_until(asked.exists)
    told = context.ranks.any_rank(lambda: (context.ranks.rank == 1, False))
    asked.touch()
    assert told() == (True, False)


def test_vote_of_one_rank_reaches_all_ranks(tmp_path: Path) -> None:
    assert start(vote_in_turn, tmp_path, tmp_path).join() == [0, 0]


class Impatient(ProcessGroup):
    """A group in which another rank asks for one save, in the third iteration."""

    votes = 0

    def any_rank(self, ask: Votes) -> Votes:
        """Return this process's votes, and the other rank's."""
        self.votes += 1
        leaving, due = ask()
        return lambda: (leaving, due or self.votes == 3)


def test_interval_between_saves_starts_at_another_ranks_save(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(task_with(save_seconds=50))
    run, observer, saved = run_of(plan), RecordingObserver(), list[int]()
    run.ranks = Impatient()
    monkeypatch.setattr(progress.time, "monotonic", lambda: 10.0 * len(observer.stepped_to))
    run_loop(run, observer, lambda run: saved.append(run.progress.iteration), lambda: False)
    assert saved[:3] == [3, 9, 15]


def evaluate_together(context: Context, folder: Path) -> None:
    """Evaluate one sample more than a chunk has. One process gets no sample of the second chunk."""
    held = samples([CHUNK + 1], 5)
    network, order = linear(), torch.arange(CHUNK + 1)
    measured = measure(network, held, order, Normalize(TASK.data), 0.0, context.ranks)
    (folder / f"measured-{context.ranks.rank}.json").write_text(json.dumps(measured))


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 5))


def test_distributed_evaluation_gives_all_ranks_the_same_result(tmp_path: Path) -> None:
    assert start(evaluate_together, tmp_path, tmp_path).join() == [0, 0]
    expected = measure(linear(), samples([CHUNK + 1], 5), torch.arange(CHUNK + 1), Normalize(TASK.data), 0.0)
    for rank in range(2):
        measured = MeasuredScores(*json.loads((tmp_path / f"measured-{rank}.json").read_text()))
        assert (measured.accuracy, measured.images) == (expected.accuracy, expected.images)
        assert measured.loss == pytest.approx(expected.loss)


def test_batch_parts_cover_the_batch_and_differ_by_one_row() -> None:
    for size in (1, 2, 3, 8):
        parts = [Some(rank, size).rows(UNEVEN) for rank in range(size)]
        assert [row for rows in parts for row in range(UNEVEN)[rows.at]] == list(range(UNEVEN))
        lengths = {rows.stop - rows.start for rows in parts}
        assert max(lengths) - min(lengths) <= 1
    assert SINGLE_PROCESS.rows(UNEVEN) == Rows(0, UNEVEN, UNEVEN)


@pytest.mark.parametrize("change", [lambda images, random, rows=None: crop(images, 2, random, rows), flip])
def test_part_of_a_batch_is_augmented_as_in_the_full_batch(change: object) -> None:
    images = torch.randint(256, (UNEVEN, 3, SIZE, SIZE), dtype=torch.uint8)

    def random() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    parts = [Some(rank, 3).rows(UNEVEN) for rank in range(3)]
    changed: list[Tensor] = [change(images[rows.at], random(), rows) for rows in parts]
    assert torch.equal(torch.cat(changed), change(images, random()))


def test_more_processes_than_samples_in_a_batch_are_refused() -> None:
    plan = plan_of(task_with(batch_size=3))
    with pytest.raises(TaskError, match=r"training\.batch_size: 3 is too small for 4 processes"):
        set_up(plan, samples([160], 5), samples([100], 5), None, Some(0, 4))


def test_dropout_differs_between_ranks() -> None:
    drawn = []
    for rank in range(2):
        set_up(plan_of(), samples([160], 5), samples([100], 5), None, Some(rank, 2))
        drawn.append(torch.rand(4, device=CPU))
    assert not torch.equal(*drawn)


def unused_net(classes: int, image_size: int) -> nn.Module:
    """Return a network with a layer that its forward pass does not use."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, classes))
    network[1].unused = nn.Linear(2, 2)
    return network


def refuse_to_train(context: Context, plan: Plan) -> None:
    with pytest.raises(ModelError, match="parameters that a training step does not use"):
        train_together(replace(context, factories=frozenset({plan.task.model.name})), plan)


def test_processes_refuse_networks_with_unused_parameters(tmp_path: Path) -> None:
    commit_drops(tmp_path)
    plan = stored_plan(tmp_path, drops=1, task=task_with(f"{__name__}:unused_net"))
    assert start(refuse_to_train, tmp_path, plan).join() == [0, 0]
