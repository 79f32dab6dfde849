"""Evaluation on the test split matches a count of correct predictions, sample by sample."""

from pathlib import Path

import pytest
import torch
from support.workspaces import Workspace, make_task

from retrain.data import samples
from retrain.data.augment import Normalize
from retrain.models import factory
from retrain.pipeline import stages
from retrain.pipeline.evaluate import evaluate_run
from retrain.pipeline.planning import Request
from retrain.records import Dataset, Loading, Plan
from retrain.store import LocalStore

TASK = make_task()


def train(workspace: Workspace, plan: Plan) -> Plan:
    workspace.context.files(plan.run_id).write_plan(plan)
    return stages.train(workspace.context, plan)


def guesses(workspace: Workspace, plan: Plan, dataset: Dataset) -> list[tuple[str, str, int]]:
    """Return the class, the class predicted by a run's model, and the drop of each test sample of a dataset."""
    data = plan.task.data
    test = workspace.context.samples(dataset, ["test"], data, Loading())["test"]
    network = factory.build_network(TASK.model, len(plan.dataset.classes), data.image_size, seed=7)
    network.load_state_dict(workspace.context.files(plan.run_id).weights())
    network.eval()
    normalize = Normalize(data, False)
    guessed = [plan.dataset.classes[int(network(normalize(image[None])).argmax())] for image in test.images]
    return list(zip([dataset.classes[label] for label in test.labels], guessed, test.drop.tolist(), strict=True))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a workspace with one drop of the classes 0 and 1."""
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1)
    return workspace


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def test_accuracies_match_a_count_by_drop_and_by_class(workspace: Workspace) -> None:
    first = stages.run_task(workspace.context, TASK, Request())
    workspace.land(1, 2, 3, seed=1)
    plan = stages.plan(workspace.context, TASK, Request("naive"))
    assert isinstance(plan, Plan)
    train(workspace, plan)
    candidate, champion = (
        guesses(workspace, plan, plan.dataset),
        guesses(workspace, workspace.context.files(plan.parent).plan(), plan.dataset),
    )
    evaluation = evaluate_run(workspace.context, plan, plan.parent)
    assert evaluation.samples == len(candidate)
    assert evaluation.accuracy == share([label == guess for label, guess, _ in candidate])
    assert evaluation.old == share([label == guess for label, guess, drop in candidate if drop == 0])
    assert evaluation.new == share([label == guess for label, guess, drop in candidate if drop == 1])
    accuracies = [(evaluation.old, 0), (evaluation.new, 1)]
    variances = [p * (1 - p) / sum(drop == one for _, _, drop in candidate) for p, one in accuracies]
    assert evaluation.gap_error == pytest.approx(sum(variances) ** 0.5)
    assert evaluation.by_class == {
        name: share([label == guess for label, guess, _ in candidate if label == name]) for name in plan.dataset.classes
    }
    comparison = evaluation.comparison
    assert comparison
    assert comparison.champion == first.run_id
    assert comparison.champion_accuracy == share([label == guess for label, guess, _ in champion])
    assert comparison.negative_flips == share(
        [was == label != now for (label, was, _), (_, now, _) in zip(champion, candidate, strict=True)]
    )


def test_models_with_reordered_classes_compare_by_name(workspace: Workspace) -> None:
    first = stages.plan(workspace.context, TASK, Request())
    assert isinstance(first, Plan)
    workspace.land(1, 2, 3, seed=1)
    candidate = stages.plan(workspace.context, TASK, Request())
    assert isinstance(candidate, Plan)
    turned = Dataset(drops=candidate.dataset.drops[::-1], classes=("class-1", "class-2", "class-3", "class-0"))
    champion = candidate.model_copy(update={"dataset": turned, "seed": 1})
    for plan in (candidate, champion):
        train(workspace, plan)
    assert candidate.dataset.classes == ("class-0", "class-1", "class-2", "class-3")
    comparison = evaluate_run(workspace.context, candidate, champion.run_id).comparison
    expected = share([label == guess for label, guess, _ in guesses(workspace, champion, candidate.dataset)])
    assert comparison
    assert comparison.champion_accuracy == expected > 0.7


def test_champion_is_wrong_on_classes_it_never_saw(workspace: Workspace) -> None:
    first = stages.run_task(workspace.context, TASK, Request())
    workspace.land(2, 3, seed=1)
    plan = stages.plan(workspace.context, TASK, Request("naive"))
    assert isinstance(plan, Plan)
    train(workspace, plan)
    comparison = evaluate_run(workspace.context, plan, first.run_id).comparison
    assert comparison
    champion = guesses(workspace, workspace.context.files(first.run_id).plan(), plan.dataset)
    assert {guess for _, guess, _ in champion} <= {"class-0", "class-1"}
    assert comparison.champion_accuracy == share([label == guess for label, guess, _ in champion]) < 0.7


def test_champion_is_evaluated_at_its_own_image_size(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load_in_memory = samples.load_in_memory
    monkeypatch.setattr(
        samples, "load_in_memory", lambda *args, **how: loaded.append(args) or load_in_memory(*args, **how)
    )
    plan = stages.plan(workspace.context, TASK, Request())
    assert isinstance(plan, Plan)
    smaller = TASK.data.model_copy(update={"image_size": TASK.data.image_size // 2})
    darker = TASK.data.model_copy(update={"mean": (0.9, 0.9, 0.9)})
    train(workspace, plan)
    for data, loads in ((darker, 1), (smaller, 2)):
        other = plan.model_copy(update={"task": TASK.model_copy(update={"data": data})})
        train(workspace, other)
        loaded.clear()
        comparison = evaluate_run(workspace.context, plan, other.run_id).comparison
        assert len(loaded) == loads
        assert comparison
        hits = [label == guess for label, guess, _ in guesses(workspace, other, plan.dataset)]
        assert comparison.champion_accuracy == share(hits) > 0.5


def test_evaluation_leaves_the_random_state_unchanged(workspace: Workspace) -> None:
    plan = stages.plan(workspace.context, TASK, Request())
    assert isinstance(plan, Plan)
    train(workspace, plan)
    torch.manual_seed(1)
    evaluate_run(workspace.context, plan, None)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert after == torch.rand(1)


def test_champion_guessing_a_class_the_run_lacks_is_wrong(workspace: Workspace) -> None:
    candidate = stages.plan(workspace.context, TASK, Request())
    assert isinstance(candidate, Plan)
    workspace.land(0, 2, seed=1, mislabelled=True)
    champion = stages.plan(workspace.context, TASK, Request())
    assert isinstance(champion, Plan)
    for plan in (candidate, champion):
        train(workspace, plan)
    guessed = guesses(workspace, champion, candidate.dataset)
    assert any(guess == "class-2" for label, guess, _ in guessed if label == "class-0")
    comparison = evaluate_run(workspace.context, candidate, champion.run_id).comparison
    assert comparison
    assert comparison.champion_accuracy == share([label == guess for label, guess, _ in guessed])


def test_gate_never_sees_training_or_stopping_samples(workspace: Workspace) -> None:
    plan = stages.plan(workspace.context, TASK, Request())
    assert isinstance(plan, Plan)
    splits = workspace.context.samples(plan.dataset, ["train", "val", "test"], TASK.data, Loading())
    pictures = {name: {image.numpy().tobytes() for image in held.images} for name, held in splits.items()}
    assert all(len(pictures[name]) == len(held) > 0 for name, held in splits.items())  # no two pictures are equal
    assert pictures["test"].isdisjoint(pictures["train"] | pictures["val"])
    train(workspace, plan)
    assert evaluate_run(workspace.context, plan, None).samples == len(pictures["test"])
