"""Tests of the regime suite: its drops, one complete sequence (a regime with one seed), its numbers and its page."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

from retrain.config.task import Model
from retrain.errors import ModelError, StudyError
from retrain.experiments.regimes.__main__ import main
from retrain.experiments.regimes.drops import DropImage, choose_drop_images
from retrain.experiments.regimes.figures import (
    AdviceFigures,
    advice_figures,
    compare,
    first_reaching,
    geometric_mean,
    regime_figures,
    scratch_baseline,
    sequence_figures,
)
from retrain.experiments.regimes.goals import check_goals
from retrain.experiments.regimes.images import COARSE, apply_shift, choose_pictures
from retrain.experiments.regimes.methods import (
    AVERAGED,
    DEFAULT,
    DEFAULT_TO_PLAIN,
    FIRST,
    METHODS,
    NAIVE,
    PAPER,
    PLAIN,
    VARIANTS,
)
from retrain.experiments.regimes.page import collect_regimes, make_page
from retrain.experiments.regimes.records import FILE, Key, SuiteAdvice, SuiteRun, append_line, read_advice, read_runs
from retrain.experiments.regimes.settings import Regime, load_regimes, task_of
from retrain.models.factory import build_network, has_normalization
from retrain.records import Machine, Savings

SHAPES: dict[str, Any] = {
    "name": "tiny",
    "title": "tiny",
    "why": "For tests.",
    "images": {"source": "shapes", "classes": 4, "train": 20, "val": 20, "test": 20},
    "drops": [{"new_classes": 2, "percent": 50}, {"new_classes": 2, "percent": 50}],
    "task": {
        "data": {"image_size": 8, "crop_padding": 0},
        "model": {"name": "mlp", "options": {"width": 16}},
        "training": {"epochs": 6, "batch_size": 8},
    },
}


def regime(**parts: Any) -> Regime:
    return Regime.model_validate(SHAPES | parts)


def planned(regime: Regime, folder: Path, seed: int = 0) -> list[list[DropImage]]:
    pictures = choose_pictures(regime.images, seed, folder, folder)
    return list(choose_drop_images(regime, seed, pictures))


def has_true_label(image: DropImage) -> bool:
    return image.label == image.picture.class_name


# Drops


def test_label_noise_is_in_training_labels_only(tmp_path: Path) -> None:
    images = SHAPES["images"] | {"train": 200, "label_noise": 0.2}
    drops = planned(regime(images=images), tmp_path)
    wrong = [image for drop in drops for image in drop if not has_true_label(image)]
    train = [image for drop in drops for image in drop if image.split == "train"]
    assert {image.split for image in wrong} == {"train"}
    assert 0.1 < len(wrong) / len(train) < 0.3
    known = {image.picture.class_name for image in drops[0]}
    assert {image.label for image in drops[0]} == known


def test_shift_changes_pixels_and_not_labels(tmp_path: Path) -> None:
    drops = [{"new_classes": 4, "percent": 50}, {"percent": 50}]
    plain = planned(regime(drops=drops), tmp_path)
    shifted = planned(regime(drops=[drops[0], drops[1] | {"shift": ["inverted"]}]), tmp_path)
    assert [image.label for image in plain[1]] == [image.label for image in shifted[1]]
    assert [(one.label, one.read()) for one in plain[0]] == [(one.label, one.read()) for one in shifted[0]]
    before, after = (Image.open(io.BytesIO(drop[1][0].read())) for drop in (plain, shifted))
    assert ImageChops.add(before, after).getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("shift", ["blurred", "posterised"])
def test_shifts_change_an_image_but_not_its_size(shift: Any, tmp_path: Path) -> None:
    data = planned(regime(), tmp_path)[0][0].read()
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(apply_shift(data, shift)))
    assert before.size == after.size
    assert ImageChops.difference(before, after).getbbox() is not None


def test_each_image_is_in_exactly_one_drop(tmp_path: Path) -> None:
    drops = [{"new_classes": 3, "percent": 45}, {"new_classes": 1, "percent": 45}, {"percent": 30}, {"percent": 25}]
    images = [image for drop in planned(regime(drops=drops), tmp_path) for image in drop]
    names = [(image.picture.class_name, image.picture.name) for image in images]
    assert len(names) == len(set(names)) == 4 * 60
    assert {image.split for image in images} == {"train", "val", "test"}


def test_seed_determines_the_classes_of_a_drop(tmp_path: Path) -> None:
    first = [{image.label for image in planned(regime(), tmp_path, seed)[0]} for seed in range(5)]
    assert len({frozenset(labels) for labels in first}) > 1


def test_superclasses_contain_each_class_once() -> None:
    fine = [name for classes in COARSE.values() for name in classes.split()]
    assert len(COARSE) == 20
    assert len(fine) == len(set(fine)) == 100


@pytest.mark.parametrize(
    ("drops", "message"),
    [
        ([{"new_classes": 2}, {"new_classes": 1}], "the drops have 3 new classes in total, but images.classes is 4"),
        ([{"new_classes": 4, "percent": 60}, {"percent": 60}], "drop 1: this drop and later ones use 120 percent"),
    ],
)
def test_impossible_drops_are_refused(drops: list[dict[str, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regime(drops=drops)


def test_every_regime_and_method_has_a_valid_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    regimes = load_regimes()
    assert sum(each.kind == "regime" for each in regimes) >= 14
    assert sum(each.kind == "journey" for each in regimes) == 3
    for each in regimes:
        for method in (METHODS | VARIANTS).values():
            task_of(each, 0, method.overrides)
    with pytest.raises(StudyError, match="no regime 'nowhere'"):
        load_regimes(["nowhere"])


# Networks


def test_resnet_has_the_chosen_normalization() -> None:
    kinds = {
        norm: build_network(Model(options={"width": 8, "norm": norm}), 3, 8, 0) for norm in ("batch", "group", "none")
    }
    default = build_network(Model(options={"width": 8}), 3, 8, 0).state_dict()
    assert all(torch.equal(tensor, default[name]) for name, tensor in kinds["batch"].state_dict().items())
    assert sum(isinstance(module, torch.nn.GroupNorm) for module in kinds["group"].modules()) == 20
    assert not has_normalization(kinds["none"])
    for network in kinds.values():
        assert torch.isfinite(network(torch.randn(4, 3, 8, 8))).all()
    with pytest.raises(ModelError, match="norm 'layer' does not exist; allowed: batch, group, none"):
        build_network(Model(options={"norm": "layer"}), 3, 8, 0)


def test_mixer_gives_logits_and_refuses_patches_that_do_not_fit() -> None:
    network = build_network(Model(name="mixer", options={"width": 8, "depth": 1}), 5, 8, 0)
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(ModelError, match=r"patch 3 does not divide image_size 8: set model\.options\.patch"):
        build_network(Model(name="mixer", options={"patch": 3}), 5, 8, 0)


# A complete sequence of drops


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of a tiny regime, run by the code that the command runs in its workers."""
    from retrain.experiments.regimes.sequence import DropSequence, SuiteContext

    out = tmp_path_factory.mktemp("suite")
    sequence = DropSequence(regime(), 0, SuiteContext(out, out, "abc"), {})
    assert sequence.run() == len(METHODS) + 2  # two for the first model and the advice of `study recommend`
    return out


def test_sequence_stores_one_result_per_method(finished: Path) -> None:
    runs = read_runs(finished)
    assert set(runs) == {
        Key("tiny", 0, FIRST, 1),
        *(Key("tiny", 0, method, 2) for method in METHODS),
    }
    assert not (finished / "work" / "tiny-0").exists()
    carried, measured = runs[Key("tiny", 0, DEFAULT, 2)], runs[Key("tiny", 0, DEFAULT_TO_PLAIN, 2)]
    plain = runs[Key("tiny", 0, PLAIN, 2)]
    assert (carried.provenance, measured.provenance, plain.provenance) == ("carried", "measured", None)
    assert measured.target_accuracy == plain.final_accuracy == plain.curve[-1][1]
    assert runs[Key("tiny", 0, NAIVE, 2)].target_accuracy == plain.final_accuracy
    assert plain.iterations == plain.schedule == 30


def test_sequence_stores_the_advice_of_recommend(finished: Path) -> None:
    (advice,) = read_advice(finished).values()
    assert (advice.regime, advice.seed) == ("tiny", 0)
    assert advice.choice in ("default", "naive", "paper", "scratch")
    assert 0 < advice.iterations <= 3 * advice.schedule


def test_complete_sequence_is_not_repeated(finished: Path) -> None:
    from retrain.experiments.regimes.sequence import DropSequence, SuiteContext

    before = (finished / FILE).read_bytes()
    assert DropSequence(regime(), 0, SuiteContext(finished, finished, "abc"), {}).run() == 0
    assert (finished / FILE).read_bytes() == before


def test_killed_sequence_resumes_to_the_same_results(finished: Path, tmp_path: Path) -> None:
    from retrain.experiments.regimes import sequence

    whole = read_runs(finished)
    killed = sequence.DropSequence(regime(), 0, sequence.SuiteContext(tmp_path, tmp_path, "abc"), {})
    calls = 0

    def append_two(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        sequence.DropSequence._append_result(killed, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(killed, "_append_result", append_two)
        with pytest.raises(KeyboardInterrupt):
            killed.run()
    assert len(read_runs(tmp_path)) == 2
    sequence.DropSequence(regime(), 0, sequence.SuiteContext(tmp_path, tmp_path, "abc"), {}).run()

    def outcomes(runs: dict[Key, SuiteRun]) -> dict[Key, Any]:
        return {key: (run.curve, run.test_accuracy, run.savings) for key, run in runs.items()}

    assert outcomes(read_runs(tmp_path)) == outcomes(whole)


def test_report_can_be_recomputed_from_the_results(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    (tmp_path / "regimes").mkdir()
    (tmp_path / "regimes" / "tiny.yaml").write_text(yaml.safe_dump(SHAPES))
    monkeypatch.setenv("RETRAIN_STUDIES", str(tmp_path))
    page = tmp_path / "regimes.md"
    assert main(["report", str(finished), "--output", str(page)]) == 0
    assert "1 of 1 regimes, 8 results" in capsys.readouterr().out
    first = page.read_text()
    assert (tmp_path / "regimes" / "regimes.svg").read_text().startswith("<svg")
    assert main(["report", str(tmp_path / "regimes"), "--output", str(page)]) == 0
    assert page.read_text() == first
    assert "## The advice of `retrain study recommend`" in first
    assert first.index("| goal | measured | met? |") < first.index("## Every regime")


def test_incomplete_last_line_of_the_results_is_ignored(finished: Path, tmp_path: Path) -> None:
    lines = (finished / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert len(read_runs(tmp_path)) == 2
    append_line(SuiteRun.model_validate_json(lines[2]), tmp_path / FILE)
    assert len(read_runs(tmp_path)) == 3


# Arithmetic


def suite_run(method: str, drop: int = 2, **parts: Any) -> SuiteRun:
    fields: dict[str, Any] = {
        "regime": "hand",
        "seed": 0,
        "method": method,
        "drop": drop,
        "outcome": "completed",
        "promoted": None,
        "start": "",
        "attempts": 1,
        "iterations": 100,
        "schedule": 100,
        "batch_size": 10,
        "evaluated_images": 0,
        "curve": ((50, 0.4), (80, 0.5), (100, 0.5)),
        "final_accuracy": 0.5,
        "test_accuracy": 0.5,
        "champion_test_accuracy": None,
        "target_accuracy": None,
        "provenance": None,
        "expected_scratch": None,
        "savings": None,
        "device_seconds": 1.0,
        "commit": "abc",
        "machine": Machine(retrain="0", torch="0", device="cpu", threads=1),
    }
    return SuiteRun.model_validate(fields | parts)


def by_hand() -> dict[Key, SuiteRun]:
    """Return runs on two drops. The gate promotes the default's first run only. Naive never reaches the target."""
    positive = Savings(
        baseline=80,
        whole=100,
        used=20,
        used_all_in=30,
        gross=60,
        net=50,
        gross_whole=80,
        net_whole=70,
        standard_error=4,
    )
    negative = positive.model_copy(update={"baseline": 0, "net": -30.0, "standard_error": 0.0})
    used = {"iterations": 20, "evaluated_images": 300, "curve": ((10, 0.45), (20, 0.5))}
    ended = {"champion_test_accuracy": 0.51, "test_accuracy": 0.52}
    runs = [
        *(suite_run(PLAIN, drop) for drop in (2, 3)),
        *(suite_run(AVERAGED, drop, curve=((50, 0.5), (100, 0.5))) for drop in (2, 3)),
        suite_run(DEFAULT, 2, outcome="reached", promoted=True, savings=positive, **used, **ended),
        suite_run(DEFAULT, 3, outcome="plateau", promoted=False, savings=negative, **used, **ended),
        *(suite_run(DEFAULT_TO_PLAIN, drop, promoted=True, **used) for drop in (2, 3)),
        *(suite_run(NAIVE, drop, iterations=40, curve=((40, 0.45),)) for drop in (2, 3)),
    ]
    return {run.key: run for run in runs}


def test_baseline_is_where_scratch_first_has_its_final_accuracy() -> None:
    assert scratch_baseline(suite_run(PLAIN)) == (0.5, 80)
    assert first_reaching(((5, 0.1), (6, 0.3)), 0.2) == 6
    assert first_reaching(((5, 0.1),), 0.2) is None
    assert geometric_mean([2, 8]) == pytest.approx(4)


def test_advice_is_compared_with_the_best_preset() -> None:
    runs = by_hand() | {Key("hand", 0, PAPER, 2): suite_run(PAPER, curve=((70, 0.5),))}
    advice = SuiteAdvice(regime="hand", seed=0, choice="paper", why="", iterations=20, schedule=100, commit="abc")
    wrong = advice_figures(runs, advice)
    assert wrong
    assert wrong == AdviceFigures(advice, taken=70, best=20, scratch=80)
    for choice, taken in (("naive", 40 + 80), ("scratch", 80)):
        found = advice_figures(runs, advice.model_copy(update={"choice": choice}))
        assert found
        assert found[1:] == (taken, 20, 80)
    assert advice_figures(by_hand(), advice) is None
    *_, goal = check_goals([], [wrong])
    assert (goal.measured, goal.met) == ("0 of 1 sequences; missed by hand seed 0 (3.50)", False)
    assert check_goals([], [wrong._replace(taken=23)] * 9 + [wrong])[-1].met


def test_speed_up_sums_iterations_over_drops() -> None:
    found = compare(by_hand(), "hand", 0, DEFAULT_TO_PLAIN, PLAIN)
    assert found == (160, 40, 2, 2)
    assert found.speed_up == 4
    earlier = compare(by_hand(), "hand", 0, DEFAULT_TO_PLAIN, PLAIN, level=90)
    assert earlier is not None
    assert earlier.speed_up == 8


def test_methods_are_compared_on_the_seeds_that_they_share() -> None:
    runs = by_hand()
    slow = {key._replace(seed=1): run for key, run in runs.items() if key.method not in (NAIVE, DEFAULT_TO_PLAIN)}
    slow |= {Key("hand", 1, DEFAULT_TO_PLAIN, drop): runs[Key("hand", 0, PLAIN, drop)] for drop in (2, 3)}
    [(_, found)] = collect_regimes(runs | slow, [regime(name="hand")])
    assert found.speed_up(DEFAULT_TO_PLAIN, PLAIN) == pytest.approx(320 / 200)
    assert found.shared_seeds((DEFAULT_TO_PLAIN, NAIVE, PAPER), PLAIN) == {0}
    assert found.speed_up(DEFAULT_TO_PLAIN, PLAIN, seeds={0}) == 4


def test_run_that_misses_the_target_also_costs_a_scratch_run() -> None:
    found = compare(by_hand(), "hand", 0, NAIVE, PLAIN)
    assert found == (160, 240, 0, 2)
    assert found.speed_up == pytest.approx(2 / 3)


def test_net_savings_count_only_promoted_runs() -> None:
    sequence = sequence_figures(by_hand(), "hand", 0)
    assert sequence is not None
    assert (sequence.used, sequence.used_all_in) == (40, 60)
    assert (sequence.net, sequence.net_averaged, sequence.net_ledger, sequence.ledger_error) == (20, -10, 20, 4)
    assert (sequence.scratch, sequence.scratch_averaged, sequence.whole) == (160, 100, 200)
    assert sequence.champion_gaps == pytest.approx((0.01, 0.01))
    assert (sequence.outcomes, sequence.promoted) == (("reached", "plateau"), 1)


def test_regime_without_both_baselines_is_left_out() -> None:
    runs = by_hand()
    del runs[Key("hand", 0, AVERAGED, 3)]
    assert sequence_figures(runs, "hand", 0) is None
    assert regime_figures(runs, "hand") is None


def test_goals_are_met_missed_or_not_measured() -> None:
    hand = regime(name="hand", kind="journey", is_fitted=True)
    results = collect_regimes(by_hand(), [hand])
    met = [goal.met for goal in check_goals(results)]
    assert met == [True, True, True, None, False, True, True, True, False, None]
    page = make_page(by_hand(), results, "regimes")
    assert "4.00" in page
    assert "0.67 (0/2)" in page
