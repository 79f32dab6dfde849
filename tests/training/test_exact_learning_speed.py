"""Learning speed by an evaluation after each pass, against the same counted by hand."""

import torch
from support.trainings import TASK, plan_of, run_of

from retrain.training.loop import train_step


def test_exact_counts_are_those_of_an_evaluation_after_each_pass() -> None:
    training = TASK.training.model_copy(update={"learning_speed": "exact", "epochs": 3.0})
    run = run_of(plan_of(TASK.model_copy(update={"training": training})))
    correct, passes = torch.zeros(160), 0
    for _ in range(12):
        train_step(run)
        if run.loader.passes.number > passes:
            passes = run.loader.passes.number
            run.network.eval()
            with torch.no_grad():
                correct += run.network(run.normalize(run.train.images)).argmax(1) == run.train.labels
            run.network.train()
    assert passes == 2
    assert torch.equal(run.counters.seen, torch.full((160,), 2.0))
    assert torch.equal(run.counters.correct, correct)
    assert 0 < correct.sum() < 2 * 160
    assert run.progress.evaluated_images == 2 * 160
