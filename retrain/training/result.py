"""Make a run's result after its loop has ended."""

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime

import torch

from retrain import __version__
from retrain.models.factory import has_normalization, output_change, weight_scale
from retrain.models.flops import count_flops
from retrain.recipe.speed_up import crossings, speed_ups
from retrain.records import Cost, Machine, Point, Result
from retrain.records.run import Outcome
from retrain.training.seeds import fresh_network
from retrain.training.setup import Run


def make_result(
    run: Run,
    outcome: Outcome,
    started_at: datetime,
    model_digest: str | None,
    index_digest: str,
    moments_digest: str | None,
    train_accuracy: float | None = None,
) -> Result:
    """Return the run's result: accuracies, the iterations to reach them, and costs."""
    last, target = run.progress.points[-1], run.plan.target
    on_all_of_val = [point for point in run.progress.points if point.images == len(run.val_order)]
    compared = in_scope(on_all_of_val) if target and target.scope else on_all_of_val
    reached_at = crossings(compared, target.baseline_accuracy if target else last.score)
    return Result(
        outcome=outcome,
        iterations=run.progress.iteration,
        final_accuracy=last.accuracy,
        final_score=last.score,
        in_scope=last.in_scope,
        best_accuracy=max(point.accuracy for point in on_all_of_val or run.progress.points),
        best_score=max(point.score for point in on_all_of_val or run.progress.points),
        train_accuracy=train_accuracy,
        reached_at=reached_at,
        speed_up=speed_ups(reached_at, target),
        normalised=has_normalization(run.network),
        weight_scale=weight_scale(run.network),
        output_change=output_change(run.network),
        model_digest=model_digest,
        index_digest=index_digest,
        moments_digest=moments_digest,
        cost=_cost(run),
        machine=_machine(run),
        started_at=started_at,
        ended_at=datetime.now(UTC),
    )


def in_scope(points: Iterable[Point]) -> list[Point]:
    """Return the points with the score within the target's scope instead of the score on all of val."""
    return [point.model_copy(update={"score": point.in_scope}) for point in points if point.in_scope is not None]


def _cost(run: Run) -> Cost:
    progress, flops = run.progress, count_flops(fresh_network(run.plan), run.plan.task.data.image_size)
    samples = progress.iteration * run.plan.task.training.batch_size
    return Cost(
        iterations=progress.iteration,
        samples=samples,
        evaluated_images=progress.evaluated_images,
        flops=samples * flops.training,
        flops_all_in=samples * flops.training + progress.evaluated_images * flops.evaluation,
        device_seconds=(progress.seconds - progress.aside_seconds) * run.ranks.size,
        device_seconds_all_in=progress.seconds * run.ranks.size,
        measured_joules=_measured_joules(run),
    )


def _measured_joules(run: Run) -> float | None:
    """Return the energy of all processes' devices.

    Only this process's GPU (on the CPU: this process's machine) is measured. Each of the other GPUs or machines is
    assumed to use the same energy.
    """
    joules, processes = run.progress.joules, run.ranks.size
    if joules is None:
        return None
    sharing = 1 if run.train.device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return joules * max(1, processes // sharing)


def _machine(run: Run) -> Machine:
    device = run.train.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Machine(
        retrain=__version__,
        torch=torch.__version__,
        device=name,
        threads=torch.get_num_threads(),
        processes=run.ranks.size,
        loader=run.train.loader,
    )
