"""Tests of studies' tables with invented curves: means, errors, speed-ups and accumulated cost."""

import pytest
from support.studying import TWO_SEEDS, ended_run, small_study

from retrain.experiments.kept_runs import EndedRun, KeptRuns
from retrain.experiments.page import page, table
from retrain.experiments.statistics import Group, accumulated, estimate, fitted_at, groups, on_grids, rows
from retrain.records import Curve


def test_table_has_means_errors_and_same_seed_speed_ups() -> None:
    study = small_study(seeds=[0, 1])
    by_method = {row.method: row for row in rows(study, TWO_SEEDS)}
    assert by_method["scratch"].final == (pytest.approx(0.7), pytest.approx(0.1), 2, 2)
    assert by_method["scratch"].best == (pytest.approx(0.75), pytest.approx(0.15), 2, 2)
    # Scratch ends with 0.6 and 0.8, and first reaches both at 30 iterations. init reaches them at 10 and 5.
    assert by_method["init"].speed_ups["scratch"][100] == (pytest.approx(4.5), pytest.approx(1.5), 2, 2)
    # 99% of 0.6 and 0.8 are 0.594 and 0.792. naive reaches both at 40 iterations. Only seed 1 reaches 100%.
    assert by_method["naive"].speed_ups["scratch"][99] == (0.75, 0.0, 2, 2)
    assert by_method["naive"].speed_ups["scratch"][100] == (0.75, None, 1, 2)
    assert [row.negative_transfer for row in by_method.values()] == [False, True, False]


def test_table_shows_unreached_levels_and_negative_transfer() -> None:
    study = small_study(seeds=[0, 1])
    never = [ended_run("naive", seed, {10: 0.1, 40: 0.2}) for seed in (0, 1)]
    text = table(study, rows(study, [*TWO_SEEDS[:2], *never]))
    assert text.splitlines()[3] == "| naive ▼ | 20.00 ± 0.00 | 20.00 ± 0.00 | - | / | / |"
    assert "×0.75 (1/2)" in table(study, rows(study, TWO_SEEDS))


def test_accumulated_cost_sums_drops_until_scratch_is_matched() -> None:
    study = small_study(splits={"7+3": {"by": "classes", "sizes": "4+3+3"}})
    found = [
        *(ended_run("scratch", 0, {10: 0.4, 20: 0.5, 30: 0.5}, drops) for drops in (2, 3)),
        ended_run("naive", 0, {10: 0.5, 20: 0.6}, 2),
        ended_run("naive", 0, {10: 0.4, 30: 0.6}, 3),
        ended_run("init", 0, {10: 0.5}, 2),
        ended_run("init", 0, {10: 0.1}, 3),
    ]
    by_group = groups(study, reversed(found))
    assert list(by_group) == [Group("task", "7+3", 2), Group("task", "7+3", 3)]
    spent = {each.method: each.iterations.mean for each in accumulated(study, by_group, "task", "7+3")}
    assert spent == {"scratch": 40, "naive": 40, "init": None}


def test_accumulated_cost_counts_only_seeds_that_ran() -> None:
    study = small_study(splits={"7+3": {"by": "classes", "sizes": "4+3+3"}}, seeds=[0, 1, 2])
    found = [ended_run(method, 1, {10: 0.4, 20: 0.5}, drops) for method in ("scratch", "naive") for drops in (2, 3)]
    found.append(ended_run("init", 1, {10: 0.6}, 2))  # its next run has no model, so there is no run on three drops
    spent = accumulated(study, groups(study, found), "task", "7+3")
    assert {each.method: (each.iterations.mean, each.iterations.n, each.iterations.of) for each in spent} == {
        "scratch": (40, 1, 1),
        "naive": (40, 1, 1),
        "init": (None, 0, 1),
    }


def test_diverged_reference_is_not_compared_with() -> None:
    study = small_study(splits={"7+3": {"by": "classes", "sizes": "4+3+3"}})
    diverged = [_diverged(ended_run("scratch", 0, {10: 0.1}, drops)) for drops in (2, 3)]
    found = [*diverged, *(ended_run("naive", 0, {10: 0.5}, drops) for drops in (2, 3))]
    by_group = groups(study, found)
    naive = rows(study, by_group[Group("task", "7+3", 2)])[1]
    assert [naive.speed_ups["scratch"][level] for level in (99, 100)] == [estimate([])] * 2
    assert accumulated(study, by_group, "task", "7+3")[1].iterations == estimate([])
    assert not naive.negative_transfer


def _diverged(one: EndedRun) -> EndedRun:
    return one._replace(record=one.record.model_copy(update={"outcome": "diverged"}))


def test_l_100_is_also_reported_for_fewer_evaluations() -> None:
    study = small_study(seeds=[0, 1], grids=[1, 2])
    assert [each.mean for each in on_grids(study, TWO_SEEDS)["init"]] == [
        pytest.approx((30 / 10 + 30 / 5) / 2),
        pytest.approx((40 / 10 + 40 / 10) / 2),  # with every second evaluation: scratch at 40, init at 10
    ]
    assert "| init | ×4.50 ± 1.50 | ×4.00 ± 0.00 |" in page(study, KeptRuns(grid="", commit="", runs=tuple(TWO_SEEDS)))


def test_training_time_ends_at_the_required_training_loss() -> None:
    falling = ended_run("naive", 0, {10: 0.1, 20: 0.2, 30: 0.3}).curve
    losses = zip(falling.points, (2.0, 0.4, 0.3), strict=True)
    curve = Curve(points=tuple(point.model_copy(update={"train_loss": loss}) for point, loss in losses))
    assert [fitted_at(curve, loss) for loss in (3.0, 0.4, 0.2, None)] == [10, 20, None, None]
    study = small_study(seeds=[0, 1], fitted=1.5)
    assert "iterations to a training loss of 1.5" in table(study, rows(study, TWO_SEEDS))


def test_one_value_has_no_standard_error() -> None:
    assert estimate([0.5, None]) == (0.5, None, 1, 2)
    assert estimate([]) == (None, None, 0, 0)


def test_spread_is_the_standard_deviation_if_configured() -> None:
    error, deviation = (
        page(small_study(seeds=[0, 1], spread=spread), KeptRuns(grid="", commit="", runs=tuple(TWO_SEEDS)))
        for spread in ("error", "deviation")
    )
    # 0.6 and 0.8: the standard deviation is 0.1414, the standard error of their mean 0.1.
    assert "| scratch | 75.00 ± 15.00 | 70.00 ± 10.00 |" in error
    assert "| scratch | 75.00 ± 21.21 | 70.00 ± 14.14 |" in deviation


def test_page_counts_a_run_that_two_methods_share_once() -> None:
    study = small_study(seeds=[0, 1], methods={"scratch": {"start": "scratch"}, "naive": {}, "init": {}, "same": {}})
    shared = [one._replace(cell=one.cell._replace(method="same")) for one in TWO_SEEDS if one.cell.method == "naive"]
    text = page(study, KeptRuns("grid", "commit", (*TWO_SEEDS, *shared)))
    assert "seeds 0, 1; 6 runs, 180 iterations, 6.00 device-hours" in text
    assert "| same ▼ |" in text
