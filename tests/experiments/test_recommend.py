"""Tests of `retrain study recommend`: its trial runs ("races") on digits, and its advice for invented results."""

import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.studying import CPU, TASK, workplace
from support.terminal import retrain

from retrain.config.loading import load_task
from retrain.config.recipe import Preset
from retrain.data.packing import pack
from retrain.data.staging import Staging
from retrain.errors import StudyError
from retrain.experiments.recommend import Races, Resolution, Scratch, advise, plan_races, recommendation
from retrain.experiments.statistics import estimate
from retrain.pipeline import retention, stages
from retrain.pipeline.context import make_context
from retrain.pipeline.planning import Request
from retrain.records import RunRecord
from retrain.store.task_store import TaskStore, open_task_store
from retrain.utils.clock import utc_now

SCRATCH = Scratch({"100": 800.0, "99": 600.0}, early=0.5, source="measured")
RESOLUTION = Resolution(iterations=20, score=0.01)


@pytest.fixture(autouse=True, scope="module")
def study_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with digits and a cache for the tests of this module."""
    with workplace(tmp_path_factory.mktemp("recommend")) as root:
        yield root


@pytest.fixture(scope="module")
def trained(study_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a store with two drops. Scratch was trained on the first drop, before the second landed."""
    folder = tmp_path_factory.mktemp("trained")
    path = write_task(folder)
    land(study_root, path, 1)
    task = load_task(path)
    stages.run_task(make_context(open_task_store(task), task, "cpu"), task, Request())
    land(study_root, path, 2)
    return folder / "store"


@pytest.fixture
def task_file(trained: Path, tmp_path: Path) -> str:
    """Return the file of a task whose store is a copy of the store of `trained`."""
    shutil.copytree(trained, tmp_path / "store")
    return write_task(tmp_path)


def write_task(folder: Path) -> str:
    """Write a task file and return its path. The task's store is in the same folder."""
    path = folder / "own.yaml"
    path.write_text(
        TASK.replace("name: tiny", f"name: own\nstore: {folder / 'store'}").replace("epochs: 3", "epochs: 60")
    )
    return str(path)


def land(study_root: Path, path: str, part: int) -> None:
    """Commit one of the two drops of digits."""
    task = load_task(path)
    staging = Staging.parse("classes", "7+3")
    pack(study_root / "digits", task, open_task_store(task), staging=staging, part=part, drop_id=f"drop-{part}")


def store_of(path: str) -> TaskStore:
    """Return the task's store."""
    return open_task_store(load_task(path))


def test_races_share_parent_drops_and_length(task_file: str) -> None:
    plans = plan_races(store_of(task_file), load_task(task_file), None, 2)
    every = [plan for each in plans.values() for plan in each]
    assert list(plans) == ["default", "naive", "paper"]
    assert len({plan.run_id for plan in every}) == 6
    (parent,) = {plan.parent for plan in every}
    assert parent == store_of(task_file).champion.read().run_id
    assert {plan.purpose for plan in every} == {"trial"}
    assert {len(plan.dataset.drops) for plan in every} == {2}
    assert every[0].scratch
    assert {plan.iterations for plan in every} == {round(every[0].scratch.schedule / 4) // 6}
    assert {preset: each[0].recipe.initialization.name for preset, each in plans.items()} == {
        "default": "shrink_perturb",
        "naive": "warm",
        "paper": "shrink_perturb",
    }
    assert [each[0].averaging.kind for each in plans.values()] == ["power", "none", "none"]
    assert [plan.seed for plan in plans["naive"]] == [0, 1]


def test_races_are_trials_within_budget_and_left_out_of_savings(
    task_file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = store_of(task_file).ledger.read()
    said = retrain(["study", "recommend", "--task", task_file, "--budget", "150", "--device", "cpu"], capfd).out
    records = store_of(task_file).ledger.read()
    raced = [record for record in records if record not in before]
    used = sum(record.result.iterations for record in raced if record.result)
    assert re.match(r"Use (default|naive|paper|scratch): ", said)
    error, by_chance = re.search(r"standard error of ([\d.]+) points.* up to ([\d.]+) points can be due", said).groups()
    assert float(by_chance) == pytest.approx(1.96 * 2**0.5 * float(error), abs=0.2)
    assert len(raced) == 3
    assert {record.purpose for record in raced} == {"trial"}
    assert {record.savings for record in raced} == {None}
    assert used <= 150
    assert f"took {used} iterations together" in said
    assert "| accuracy after at most " in said
    assert store_of(task_file).champion.read().run_id == before[0].run_id
    assert retrain(["study", "recommend", "--task", task_file, "--budget", "150", "--device", "cpu"], capfd).out == said
    assert store_of(task_file).ledger.read() == records
    shown = [" ".join(retrain(["show", record.run_id, "--task", task_file], capfd).out.split()) for record in raced]
    presets = [re.search(r"recipe preset (\w+): start (\w+), penalty (\w+), sampling", out) for out in shown]
    assert [found and found.groups() for found in presets] == [
        ("default", "shrink_perturb", "none"),
        ("naive", "warm", "none"),
        ("paper", "shrink_perturb", "l2_init"),
    ]


def test_race_after_retraining_continues_from_previous_champion(task_file: str) -> None:
    task, store = load_task(task_file), store_of(task_file)
    first = store.champion.read().run_id
    stages.run_task(make_context(store, task, "cpu"), task, Request())
    plans = plan_races(store, task, None, 1)
    assert {plan.parent for each in plans.values() for plan in each} == {first}


def test_race_from_a_removed_model_fails_with_a_remedy(task_file: str) -> None:
    task, store = load_task(task_file), store_of(task_file)
    first = store.champion.read().run_id
    for request in (Request(), Request("scratch", "calibrate")):  # after the second baseline, gc may remove the first
        stages.run_task(make_context(store, task, "cpu"), task, request)
    now = utc_now()
    retention.remove(store, retention.plan_removal(store, 0, timedelta(), now), now)
    with pytest.raises(StudyError, match=f"predecessor {first}, and `retrain gc` removed its model on .*: commit ano"):
        recommendation(task_file, 150, 1, CPU)


def test_race_has_a_target_only_if_scratch_saw_its_drops(task_file: str) -> None:
    task, store = load_task(task_file), store_of(task_file)
    assert {plan.target for each in plan_races(store, task, None, 1).values() for plan in each} == {None}
    assert "There is no baseline of these drops" in recommendation(task_file, 150, 1, CPU)
    calibrated = stages.run_task(make_context(store, task, "cpu"), task, Request("scratch", "calibrate"))
    assert isinstance(calibrated, RunRecord)
    assert calibrated.result
    said = recommendation(task_file, 150, 1, CPU)
    assert f"Scratch was measured by {calibrated.run_id}." in said
    own_l99 = calibrated.result.reached_at["100"] or 0, calibrated.result.reached_at["99"] or 1
    assert f"| scratch | {own_l99[0]:,} | {own_l99[1]:,} | ×1.00 | ×{own_l99[0] / own_l99[1]:.2f} |" in said


def test_races_are_scored_by_the_tasks_metric(task_file: str, capfd: pytest.CaptureFixture[str]) -> None:
    by_f1 = ["--task", task_file, "--set", "target.metric=macro_f1", "--device", "cpu"]
    retrain(["baseline", *by_f1], capfd)
    said = retrain(["study", "recommend", *by_f1, "--budget", "150"], capfd).out
    records = store_of(task_file).ledger.read()
    (scratch,) = (record.result for record in records if record.purpose == "calibrate")
    trials = [record for record in records if record.purpose == "trial"]
    assert {record.metric for record in trials} == {"macro_f1"}
    assert {record.target.accuracy for record in trials if record.target} == {scratch and scratch.final_score}
    assert "| iterations to scratch's macro F1 |" in said
    for trial in trials:
        assert trial.result
        assert f" {trial.result.final_score * 100:.2f} |" in said
    errors = [store_of(task_file).run(trial.run_id).curve().points[-1].standard_error or 0 for trial in trials]
    assert f"The macro F1 on val has a standard error of {100 * max(errors):.1f} points." in said


def test_race_without_parent_fails_with_commands_to_run(study_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(TASK.replace("name: tiny", f"name: own\nstore: {tmp_path / 'store'}"))
    land(study_root, str(path), 1)
    with pytest.raises(StudyError, match=r"no drop that is new to the champion \(1 drop landed\): run `retrain run`"):
        recommendation(str(path), None, 1, CPU)


def test_small_budget_error_states_the_smallest_budget(task_file: str) -> None:
    with pytest.raises(StudyError, match="budget of 3 iterations is too small for 3 trial runs") as error:
        recommendation(task_file, 3, 1, CPU)
    least = int(str(error.value).split("--budget ")[1].split()[0])
    assert plan_races(store_of(task_file), load_task(task_file), least, 1)
    with pytest.raises(StudyError, match="too small"):
        plan_races(store_of(task_file), load_task(task_file), least - 1, 1)


def test_large_budget_error_states_the_largest_budget(task_file: str) -> None:
    with pytest.raises(StudyError, match="is too large for 3 trial runs: one training from scratch takes") as error:
        recommendation(task_file, 10**32, 1, CPU)
    most = int(str(error.value).split("--budget ")[1].split()[0])
    plans = plan_races(store_of(task_file), load_task(task_file), most, 1)
    assert {plan.iterations for each in plans.values() for plan in each} == {most // 3}


def races(preset: Preset, final: float, at_100: float | None = None, at_99: float | None = None) -> Races:
    """Return the results of one preset with one seed."""
    return Races(preset, {"100": estimate([at_100]), "99": estimate([at_99])}, estimate([final]), "")


def test_advice_is_the_fastest_preset_to_scratchs_accuracy() -> None:
    found = [races("default", 0.6, 300, 250), races("naive", 0.6, 200, 200), races("paper", 0.5)]
    advice = advise(found, SCRATCH, RESOLUTION)
    assert advice.choice == "naive"
    assert advice.why == "it reached scratch's accuracy after 200 iterations, and scratch after 800 (4.0 times as many)"
    assert advice.settings == "recipe: {preset: naive}"


def test_advice_is_the_default_unless_another_is_clearly_better() -> None:
    found = [races("default", 0.6, 210), races("naive", 0.6, 200)]
    assert advise(found, SCRATCH, RESOLUTION).choice == "default"
    found = [races("default", 0.595), races("naive", 0.6)]
    assert advise(found, SCRATCH, RESOLUTION).choice == "default"
    found = [races("default", 0.58), races("naive", 0.6)]
    assert advise(found, SCRATCH, RESOLUTION).choice == "naive"


def test_advice_states_that_two_presets_hardly_differ() -> None:
    found = [races("default", 0.595), races("naive", 0.6), races("paper", 0.5)]
    unknown = Scratch({"100": None, "99": None}, early=None, source="none")
    equal = "all presets were trained for the same number of iterations"
    close = "it ended at 59.50%, and naive at 60.00%: no clear difference"
    assert advise(found, unknown, RESOLUTION).why == f"{close}; {equal}"
    highest = "it ended highest of the presets, at 60.00%"
    assert advise(found[1:], unknown, RESOLUTION).why == f"{highest}; {equal}"


def test_advice_compares_with_scratchs_own_l99() -> None:
    found = [races("default", 0.5), races("naive", 0.6, None, 700)]
    advice = advise(found, SCRATCH, RESOLUTION)  # L_99 is 800 / 700, less than scratch's L_99 of 800 / 600
    assert advice.choice == "scratch"
    assert advice.why == "no preset reached 99% of scratch's accuracy sooner than scratch's 600 iterations"
    assert advise([races("naive", 0.6, None, 500)], SCRATCH, RESOLUTION).choice == "naive"


def test_advised_preset_reached_the_accuracy_with_each_seed() -> None:
    lucky = Races("naive", {"100": estimate([50, None]), "99": estimate([50, None])}, estimate([0.6, 0.4]), "")
    found = [lucky, races("paper", 0.55, 400)]
    assert advise(found, SCRATCH, RESOLUTION).choice == "paper"


def test_advice_is_scratch_if_it_is_higher_at_equal_iterations() -> None:
    found = [races("default", 0.4), races("naive", 0.45)]
    assert advise(found, SCRATCH, RESOLUTION).choice == "scratch"
    unknown = Scratch({"100": None, "99": None}, early=None, source="none")
    assert advise(found, unknown, RESOLUTION).choice == "naive"
