"""Tests that the settings of the studies at the papers' scale match the papers' texts.

The tests plan runs, without training, on invented drops as large as the real data sets. The expected values come from
the papers (V: Verwimp et al., 2025; A: Ash & Adams, first version), not from the studies' files. A method is described
as `initialization | objective | sampling | iterations`, each with its settings. Ash & Adams call the training after a
drop a round.
"""

from pathlib import Path

import pytest
from support.planned_studies import describe, planned

from retrain.config.recipe import Cosine, MultiStep
from retrain.experiments.files import load_study
from retrain.experiments.grid import FIRST, Cell
from retrain.experiments.settings import Study
from retrain.records import Plan

ROOT = Path(__file__).parents[2]
HALVES = {"50+50": ("share", "50+50")}
SCRATCH, NAIVE = "fresh 1 | none | uniform | 39100", "warm | none | uniform | 39100"
INIT, REG, DATA = "shrink_perturb 0.4 0.001", "l2_init 0.01 origin", "easy_hard 0.1 0.1"
SCRATCH_REG = "l2_init 0.01 fresh"  # a scratch run's first initialization is its new network


def all_four(scale: float) -> str:
    """Return the description of a run with all four aspects of V, section 4, and this share of the full schedule."""
    return f"{INIT} | {REG} | {DATA} | {round(39100 * scale)}"


TABLE_1 = {  # V, Table 1, in the order of its rows
    "naive": NAIVE,
    "init": f"{INIT} | none | uniform | 39100",
    "reg": f"warm | {REG} | uniform | 39100",
    "data": f"warm | none | {DATA} | 39100",
    "schedule x0.25": "warm | none | uniform | 9775",
    "init+reg": f"{INIT} | {REG} | uniform | 39100",
    "init+data": f"{INIT} | none | {DATA} | 39100",
    "reg+data": f"warm | {REG} | {DATA} | 39100",
    "init+reg+data": f"{INIT} | {REG} | {DATA} | 39100",
    "all four x0.25": all_four(0.25),
    "scratch": SCRATCH,
    "scratch init": "fresh 0.4 | none | uniform | 39100",
    "scratch reg": f"fresh 1 | {SCRATCH_REG} | uniform | 39100",
    "scratch data": f"fresh 1 | none | {DATA} | 39100",
    "scratch schedule x0.25": "fresh 1 | none | uniform | 9775",
    "scratch init+reg": f"fresh 0.4 | {SCRATCH_REG} | uniform | 39100",
    "scratch init+data": f"fresh 0.4 | none | {DATA} | 39100",
    "scratch reg+data": f"fresh 1 | {SCRATCH_REG} | {DATA} | 39100",
    "scratch init+reg+data": f"fresh 0.4 | {SCRATCH_REG} | {DATA} | 39100",
    "scratch all four x0.25": f"fresh 0.4 | {SCRATCH_REG} | {DATA} | 9775",
}
BOTH = {"scratch": SCRATCH, "naive": NAIVE}
TABLE_2A = {"scratch": SCRATCH, "continuous": NAIVE, "ours x1": all_four(1), "ours x0.5": all_four(0.5)}
SPLIT = {"70+30": ("classes", "70+30")}

VERWIMP: dict[str, tuple[dict[str, tuple[str, str]], dict[str, str]]] = {
    "table1": (SPLIT, TABLE_1),
    "table2a-cifar10": ({"8+2": ("classes", "8+2")}, TABLE_2A),
    "table2a-adaptiope-product-images": ({"100+23": ("classes", "100+23")}, TABLE_2A),
    "table2a-imagenet-100": ({"80+20": ("classes", "80+20")}, TABLE_2A),
    "table2a-imagenet-200": ({"180+20": ("classes", "180+20")}, TABLE_2A),
    "table2b": (
        {split: ("classes", split) for split in ("90+10", "70+30", "50+50", "30+70")},
        {
            "scratch reg": f"fresh 1 | {SCRATCH_REG} | uniform | 39100",
            "scratch reg x0.5": f"fresh 1 | {SCRATCH_REG} | uniform | 19550",
            **{f"all four x{scale:g}": all_four(scale) for scale in (1, 0.5, 0.25)},
        },
    ),
    "objective": (  # V, Figure 3
        SPLIT,
        BOTH
        | {
            "L2": "warm | l2 0.01 | uniform | 39100",
            "L2-init": f"warm | {REG} | uniform | 39100",
            "scratch L2": "fresh 1 | l2 0.01 | uniform | 39100",
            "scratch L2-init": f"fresh 1 | {SCRATCH_REG} | uniform | 39100",
        },
    ),
    "sampling": (  # V, Figure 4
        SPLIT,
        BOTH | {"old/new": "warm | none | old_new 0.5 | 39100", "easy/hard": f"warm | none | {DATA} | 39100"},
    ),
    "schedule": (  # V, Figure 5
        SPLIT,
        BOTH | {f"naive x{scale}": f"warm | none | uniform | {round(39100 * scale)}" for scale in (0.75, 0.5, 0.25)},
    ),
    "ten-tasks": (  # V, Figure 6
        {"50+10x5": ("classes", "50" + 10 * "+5")},
        {"scratch": SCRATCH, "ours x1": all_four(1)},
    ),
    "domains": (  # V, Figure 7
        {"product, then real life": ("source", "")},
        BOTH | {"ours x1": all_four(1)},
    ),
    "alpha": (  # V, Figure 8
        SPLIT,
        BOTH
        | {
            f"alpha {alpha}": f"shrink_perturb {float(alpha):g} 0.001 | none | uniform | 39100"
            for alpha in ("0.2", "0.4", "0.6", "0.8", "1.0")
        },
    ),
    "beta": (  # V, Figure 9
        SPLIT,
        BOTH
        | {
            f"beta {beta}": f"shrink_perturb 0.4 {float(beta):g} | none | uniform | 39100"
            for beta in ("0.0001", "0.001", "0.01", "0.1", "1.0")
        },
    ),
    "lambda": (  # V, Figure 10
        SPLIT,
        BOTH
        | {
            f"lambda {strength}": f"warm | l2_init {float(strength):g} origin | uniform | 39100"
            for strength in ("0.0001", "0.001", "0.01", "0.1")
        },
    ),
    "learning-speed": (SPLIT, BOTH),  # V, Figures 11 and 14
    "easy-hard": (  # V, Figure 12: c is the share of the easy and hard samples together
        SPLIT,
        BOTH
        | {
            "c 0.1, r 0.1": "warm | none | easy_hard 0.05 0.1 | 39100",
            "c 0.2, r 0.1": "warm | none | easy_hard 0.1 0.1 | 39100",
            "c 0.4, r 0.1": "warm | none | easy_hard 0.2 0.1 | 39100",
            "c 0.2, r 0": "warm | none | easy_hard 0.1 0 | 39100",
            "c 0.2, r 0.5": "warm | none | easy_hard 0.1 0.5 | 39100",
            "scratch, c 0.2, r 0.1": "fresh 1 | none | easy_hard 0.1 0.1 | 39100",
            "scratch, c 0.2, r 0": "fresh 1 | none | easy_hard 0.1 0 | 39100",
        },
    ),
    "multi-step": (  # V, Figure 13
        SPLIT,
        BOTH | {f"all four x{scale:g}": all_four(scale) for scale in (1, 0.5, 0.25)},
    ),
}

RANDOM, WARM = "fresh 1 | none", "warm | none"
TWO_STARTS = {"random": RANDOM, "warm": WARM}
STRENGTHS = {"1e-1": "0.1", "1e-2": "0.01", "1e-3": "0.001", "1e-4": "0.0001"}
SGD, ADAM = "sgd 0.001", "adam 0.001"
BATCHES, RATES = (16, 32, 64, 128), ("0.001", "0.01", "0.1")

ASH: dict[str, tuple[dict[str, tuple[str, str]], str, int, dict[str, str]]] = {  # splits, optimizer, seeds, methods
    "table3": (
        HALVES,
        SGD,
        5,
        TWO_STARTS | {f"noise {name}": f"noise {float(name):g} | none" for name in ("1e-2", "1e-3", "1e-4", "1e-5")},
    ),
    **{
        f"table4{kind}": (
            HALVES,
            SGD,
            5,
            TWO_STARTS | {"last layer": "warm 1 | none", "last layer, then all": "warm 0.5 | none"},
        )
        for kind in ("", "-svhn", "-cifar100")
    },
    "table5": (
        HALVES,
        SGD,
        5,
        TWO_STARTS | {f"EWC {name}": f"warm | ewc {value}" for name, value in STRENGTHS.items()},
    ),
    "figure2": ({"333 x 100": ("share", "")}, ADAM, 5, TWO_STARTS),
    "figure3": (
        {f"{kept} %": ("transfer", "") for kept in (1, 3, 10, 25, 50, 100)},
        SGD,
        5,
        TWO_STARTS,
    ),
    "figure7": (HALVES, SGD, 5, TWO_STARTS),
    "figure8": ({"333 x 100": ("component", "")}, ADAM, 5, TWO_STARTS),
    "figure9": ({"333 x 100": ("margin", "")}, ADAM, 5, TWO_STARTS),
    "optimizer-state": (
        HALVES,
        ADAM,
        5,
        {"random": RANDOM, "warm, state reset": WARM, "warm, state kept": WARM},
    ),
}


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_TASKS", str(ROOT / "tasks"))
    monkeypatch.setenv("RETRAIN_STUDIES", str(ROOT / "studies"))


def test_every_paper_size_study_has_expected_values() -> None:
    checked = {f"verwimp-{name}" for name in VERWIMP} | {f"ash-{name}" for name in ASH}
    checked |= {f"ash-{name}" for name in OTHERS} | {"verwimp-headline"}
    assert checked == {path.stem.removesuffix("-paper") for path in (ROOT / "studies").glob("*-paper.yaml")}


@pytest.mark.parametrize("name", VERWIMP)
def test_verwimp_study_has_the_papers_settings(name: str) -> None:
    study, (splits, methods) = load_study(f"verwimp-{name}-paper"), VERWIMP[name]
    assert {split: (setting.by, setting.sizes) for split, setting in study.splits.items()} == splits
    assert (len(study.seeds), study.redraw) == (5, True)
    plans = planned(study.name)
    assert {cell.method: describe(plan) for cell, plan in plans.items() if cell.method != FIRST} == methods
    assert {describe(plan) for cell, plan in plans.items() if cell.drops == 1} == {SCRATCH}
    assert all(method.seeds is None for method in study.methods.values())


@pytest.mark.parametrize("name", VERWIMP)
def test_verwimp_study_trains_as_in_sections_2_and_a2(name: str) -> None:
    study = load_study(f"verwimp-{name}-paper")
    assert study.stop_on == ("val" if "adaptiope" in str(study.data) else "test")
    for plan in planned(study.name).values():
        assert_trained_as_verwimp(plan, MultiStep if name == "multi-step" else Cosine)


def assert_trained_as_verwimp(plan: Plan, kind: type[Cosine | MultiStep] = Cosine) -> None:
    training, data = plan.task.training, plan.task.data
    adam = {"name": "adam", "learning_rate": 0.001, "betas": (0.9, 0.999), "weight_decay": 0.0}
    assert training.optimizer.model_dump(include=set(adam)) == adam
    assert (training.warmup, training.clip_norm, training.label_smoothing) == (0, None, 0)
    assert (training.batch_size, training.stop_at_train_accuracy, plan.target) == (128, None, None)
    assert (plan.task.model.name, plan.task.model.options) == ("resnet18", {})
    assert (data.crop_padding > 0, data.flip, plan.averaging.kind) == (True, True, "none")
    schedule = plan.recipe.schedule
    assert isinstance(schedule, kind)
    assert not isinstance(schedule, Cosine) or schedule.final_rate == 1e-6


def test_headline_has_the_papers_rows_and_the_default() -> None:
    study, plans = load_study("verwimp-headline-paper"), planned("verwimp-headline-paper")
    found = {cell.method: describe(plan) for cell, plan in plans.items()}
    wanted = {"scratch", "scratch reg", "naive", "all four x0.25"}
    assert {method: found[method] for method in wanted} == {method: TABLE_1[method] for method in wanted}
    for cell, plan in plans.items():
        if cell.method != "default":
            assert_trained_as_verwimp(plan)
    assert {split: (setting.by, setting.sizes) for split, setting in study.splits.items()} == SPLIT
    assert (study.redraw, study.stop_on, study.seeds) == (True, "test", (0, 1))
    default = next(plan for cell, plan in plans.items() if cell.method == "default")
    assert (default.recipe.schedule.name, default.averaging.kind, default.iterations) == ("constant", "power", 9775)
    assert {plan.task.training.compile for plan in plans.values()} == {"step"}


def assert_trained_as_ash(study: Study, plans: dict[Cell, Plan]) -> None:
    """Assert the settings of A, section 2.1: a constant rate, no augmentation, a third of the data for validation."""
    assert (study.redraw, study.stop_on, study.spread) == (True, "val", "deviation")
    for plan in plans.values():
        data, schedule = plan.task.data, plan.recipe.schedule
        assert (data.crop_padding, data.flip) == (0, False)
        assert data.val_share == pytest.approx(1 / 3, abs=1e-8)
        assert isinstance(schedule, MultiStep)
        assert (schedule.milestones, schedule.scale) == ((), 1)
        assert plan.recipe.sampling.name == "uniform"


def lengths(plans: dict[Cell, Plan]) -> set[float]:
    """Return the epochs of runs, rounded to multiples of five, because drops are not multiples of the batch size."""
    found = (plan.iterations * plan.task.training.batch_size / plan.dataset.samples for plan in plans.values())
    return {5 * round(epochs / 5) for epochs in found}


def optimizers(plans: dict[Cell, Plan]) -> set[str]:
    """Return the optimizers. Assert that they have no momentum and no weight decay, because the paper names neither."""
    found = [plan.task.training.optimizer for plan in plans.values()]
    assert not any(getattr(optimizer, "momentum", 0) or optimizer.weight_decay for optimizer in found)
    return {f"{optimizer.name} {optimizer.learning_rate:g}" for optimizer in found}


@pytest.mark.parametrize("name", ASH)
def test_ash_study_has_the_papers_settings(name: str) -> None:
    study, (splits, optimizer, seeds, methods) = load_study(f"ash-{name}-paper"), ASH[name]
    plans = planned(study.name, most_drops=3)
    assert {split: (setting.by, setting.sizes) for split, setting in study.splits.items()} == splits
    assert_trained_as_ash(study, plans)
    found = {cell.method: " | ".join(describe(plan).split(" | ")[:2]) for cell, plan in plans.items()}
    assert {method: text for method, text in found.items() if method != FIRST} == methods
    assert (optimizers(plans), len(study.seeds)) == ({optimizer}, seeds)
    assert {plan.task.training.batch_size for plan in plans.values()} == {128}
    assert {plan.task.training.stop_at_train_accuracy for plan in plans.values()} == {0.99}
    switched = set(range(5, 101, 5)) if name == "figure7" else set()
    assert lengths(plans) == {350, *switched, *({700} if name.startswith("table4") else ())}


SWEPT = {f"sgd {rate}" for rate in RATES}
OTHERS: dict[str, tuple[int, set[int], set[str], float | None]] = {
    # seeds (A, section 3: five; 3.1: three), batch sizes, optimizers, and the training accuracy that ends a run
    **{f"table1{kind}": (5, {128}, {SGD, ADAM}, 0.99) for kind in ("", "-svhn", "-cifar100")},
    "table2": (5, {128}, {SGD}, 0.99),
    "figure1": (5, {128}, {SGD, ADAM}, None),
    "figure4": (3, set(BATCHES), SWEPT, 0.99),
    "figure5": (5, set(BATCHES), SWEPT, 0.99),
    "figure6": (5, {128}, {SGD, "sgd 1e-05"}, 0.99),
}


@pytest.mark.parametrize("name", OTHERS)
def test_ash_study_of_several_settings_has_the_papers_values(name: str) -> None:
    study, (seeds, batches, named, fitted) = load_study(f"ash-{name}-paper"), OTHERS[name]
    plans = planned(study.name, seeds=1)
    assert_trained_as_ash(study, plans)
    assert {split: (setting.by, setting.sizes) for split, setting in study.splits.items()} == HALVES
    assert (len(study.seeds), optimizers(plans), lengths(plans)) == (seeds, named, {350})
    assert all(method.seeds is None for method in study.methods.values())
    assert {plan.task.training.batch_size for plan in plans.values()} == batches
    assert {plan.task.training.stop_at_train_accuracy for plan in plans.values()} == {fitted}


def test_online_studies_have_steps_of_100_images() -> None:
    for name in ("figure2", "figure8", "figure9"):
        (split,) = load_study(f"ash-{name}-paper").splits.values()
        assert (split.step, split.steps) == (100, 333)  # two thirds of the 50,000 images


@pytest.mark.parametrize("kind", ["", "-svhn", "-cifar100"])
def test_ash_table_1_has_three_networks_and_two_optimizers(kind: str) -> None:
    study = load_study(f"ash-table1{kind}-paper")
    plans = planned(study.name)
    assert_trained_as_ash(study, plans)
    found = {cell.variant: (plan.task.model.name, *optimizers({cell: plan})) for cell, plan in plans.items()}
    assert found == {
        f"{label}, {optimizer}": (name, f"{optimizer.lower()} 0.001")
        for label, name in (("ResNet", "resnet18"), ("MLP", "mlp"), ("logistic", "logistic"))
        for optimizer in ("SGD", "Adam")
    }
    assert [row.figures for row in study.paper if row.row.endswith("random")]
    assert (len(study.paper), list(study.methods), lengths(plans)) == (12, ["random", "warm"], {350})


def test_ash_figure_1_trains_for_350_epochs_at_any_accuracy() -> None:
    plans = planned("ash-figure1-paper")
    assert {plan.task.training.stop_at_train_accuracy for plan in plans.values()} == {None}
    assert (lengths(plans), optimizers(plans)) == ({350}, {SGD, ADAM})


def test_ash_table_2_regularizes_both_rounds_and_both_starts() -> None:
    plans = planned("ash-table2-paper")
    found = {(cell.variant, cell.method): describe(plan).split(" | ")[:2] for cell, plan in plans.items()}
    kinds = {"L2": "l2", "adversarial": "adversarial", "confidence": "confidence_penalty"}
    expected = {}
    for kind, word in kinds.items():
        for name, value in STRENGTHS.items():
            for method, start in ((FIRST, "fresh 1"), ("random", "fresh 1"), ("warm", "warm")):
                expected[f"{kind} {name}", method] = [start, f"{word} {value}"]
    assert found == expected
    assert (optimizers(plans), lengths(plans)) == ({SGD}, {350})


def batch_and_rate(plan: Plan) -> tuple[int, str]:
    return plan.task.training.batch_size, f"{plan.task.training.optimizer.learning_rate:g}"


def test_ash_figure_4_varies_batch_and_rate_in_every_run() -> None:
    study, plans = load_study("ash-figure4-paper"), planned("ash-figure4-paper", seeds=1)
    pairs = {(batch, rate) for batch in BATCHES for rate in RATES}
    first = {batch_and_rate(plan) for cell, plan in plans.items() if cell.drops == 1}
    assert (first, study.seeds) == (pairs, (0, 1, 2))
    for start, count in (("fresh", 12), ("warm", 144)):
        second = [cell for cell, plan in plans.items() if cell.drops == 2 and plan.recipe.initialization.name == start]
        assert {batch_and_rate(plans[cell]) for cell in second} == pairs
        assert len({plans[cell].run_id for cell in second}) == count
    assert not any(getattr(plan.task.training.optimizer, "momentum", 0) for plan in plans.values())


def test_ash_figure_5_correlates_weights_of_two_networks() -> None:
    study, plans = load_study("ash-figure5-paper"), planned("ash-figure5-paper", seeds=1)
    assert {plan.task.model.name for plan in plans.values()} == {"resnet18", "logistic"}
    warm = {batch_and_rate(plan) for cell, plan in plans.items() if cell.method.startswith("warm")}
    assert warm == {(batch, rate) for batch in BATCHES for rate in RATES}
    assert (study.measures, study.plots, len(study.seeds)) == (("weight_correlation",), ("correlation",), 5)


def test_ash_figure_6_has_a_smaller_rate_in_the_second_round() -> None:
    study, plans = load_study("ash-figure6-paper"), planned("ash-figure6-paper")
    assert {optimizers({cell: plan}).pop() for cell, plan in plans.items() if cell.drops == 1} == {SGD}
    assert {optimizers({cell: plan}).pop() for cell, plan in plans.items() if cell.drops == 2} == {"sgd 1e-05"}
    assert study.measures == ("gradient_curves",)


def test_only_one_method_continues_with_adams_moments() -> None:
    plans = planned("ash-optimizer-state-paper")
    kept = {cell.method: plan.task.training.optimizer_state for cell, plan in plans.items()}
    assert kept == {FIRST: "kept", "random": "reset", "warm, state reset": "reset", "warm, state kept": "kept"}
