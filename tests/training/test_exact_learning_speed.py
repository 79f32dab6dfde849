"""Exact learning speed, evaluated after each epoch, matches a count by hand."""

import torch
from support.trainings import TASK, plan_of, run_of

from retrain.training.loop import train_step


def test_exact_counts_are_evaluations_after_each_of_e_epochs() -> None:
    """Verwimp et al., eq. 6: E epochs are E evaluations, and the last comes when the run ends."""
    training = TASK.training.model_copy(update={"learning_speed": "exact", "epochs": 3.0})
    run = run_of(plan_of(TASK.model_copy(update={"training": training})))
    correct, passes = torch.zeros(160), 0
    for iteration in range(1, run.plan.iterations + 1):
        train_step(run)
        if run.loader.sampler.number > passes or iteration == run.plan.iterations:
            passes += 1
            run.network.eval()
            with torch.no_grad():
                correct += run.network(run.normalize(run.train.images)).argmax(1) == run.train.labels
            run.network.train()
    assert (run.plan.iterations, passes) == (15, 3)
    assert torch.equal(run.counters.seen, torch.full((160,), 3, dtype=run.counters.seen.dtype))
    assert torch.equal(run.counters.correct.float(), correct)
    assert 0 < correct.sum() < 3 * 160
    assert run.progress.evaluated_images == 3 * 160
