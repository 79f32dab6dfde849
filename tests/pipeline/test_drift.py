"""Drift on scanned digits and a trained network: which drops are reported as drifted, and what follows."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_digits
from support.terminal import retrain
from support.trainings import CPU, RecordingObserver
from support.watching import Recorder
from support.workspaces import make_task

from retrain.config.task import Task
from retrain.data.augment import Normalize
from retrain.data.packing import pack
from retrain.inference.loading import Source, load_model
from retrain.monitoring.exporter import WatchedTask
from retrain.monitoring.report.page import render_page
from retrain.monitoring.report.sources import read_sources
from retrain.pipeline import stages
from retrain.pipeline.context import Context
from retrain.pipeline.drift import MOST, compare_features, measure_drifts, try_measure_drifts
from retrain.pipeline.next_run import plan_next_run
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.status import read_status
from retrain.recipe.initialization import find_head
from retrain.records import Plan, RunRecord
from retrain.store.task_store import open_task_store
from retrain.training.head import compute_features
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch

Change = Callable[[Image.Image], Image.Image]
BLUR = ImageFilter.GaussianBlur(1)
EACH = 240
"""Number of digits in a drop. Half of them are held out."""


class Digits:
    """A store in which drops of scanned digits land, and a champion trained on the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store_folder = folder, folder / "store"
        self.task = make_task(
            store=str(self.store_folder),
            data={"image_size": 8, "crop_padding": 0, "flip": False, "val_share": 0.25, "test_share": 0.25},
            model={"name": "mlp"},
            trigger={"min_samples": 100_000, "drift": "run"},
        )
        self.store = open_task_store(self.task)
        self.context = Context(self.store, CPU, folder / "cache", RecordingObserver())
        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))  # the data set is sorted by writer
        self._images, self._labels = (digits.images * 255 / 16).astype(np.uint8)[order], digits.target[order]
        self._landed = 0

    def land(self, drop: str, change: Change = lambda image: image, number: int = EACH) -> None:
        """Apply `change` to each of the next digits, and commit them as a drop."""
        for index in range(self._landed, self._landed + number):
            path = self.folder / drop / str(self._labels[index]) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            change(Image.fromarray(self._images[index])).save(path)
        self._landed += number
        pack(self.folder / drop, self.task, self.store, drop_id=drop)

    def with_trigger(self, **trigger: object) -> Task:
        """Return the task with another trigger."""
        return Task.model_validate(self.task.model_dump() | {"trigger": trigger})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """Return digits with a champion and three waiting drops: unchanged, inverted and blurred digits."""
    digits = Digits(tmp_path_factory.mktemp("drift"))
    digits.land("first", number=400)
    assert isinstance(stages.run_task(digits.context, digits.with_trigger(), Request()), RunRecord)
    digits.land("same")
    digits.land("inverted", ImageOps.invert)
    digits.land("blurred", lambda image: image.filter(BLUR))
    measure_drifts(digits.context, digits.task)
    return digits


def test_changed_images_drift_and_others_do_not(trained: Digits) -> None:
    found = {drift.drop: drift for drift in measure_drifts(trained.context, trained.task)}
    assert {drop for drop, drift in found.items() if drift.has_drifted} == {"inverted", "blurred"}
    assert found["inverted"].distance > 3 * found["inverted"].chance
    assert all(drift.old <= MOST and drift.new <= MOST for drift in found.values())


def test_same_distribution_drifts_in_at_most_5_of_120_splits(trained: Digits) -> None:
    """Compare 120 pairs of random samples of held-out digits. By chance, 1% of them should be reported as drifted."""
    model = load_model(Source(trained.store), device="cpu")
    held_out = trained.context.samples(model.plan.dataset, ("val", "test"), model.plan.task.data, model.plan.loading)
    head = find_head(model.network)
    assert head
    normalize = Normalize(model.plan.task.data)
    parts = [
        compute_features(model.network, head[1], one, torch.arange(len(one)), normalize) for one in held_out.values()
    ]
    features = torch.cat([part for part in parts if part is not None])
    draws = torch.Generator().manual_seed(0)
    drifted = 0
    for _ in range(120):
        old, new = torch.randperm(len(features), generator=draws)[:160].split(80)
        drifted += compare_features(features[old], features[new], draws).p_value < 0.01
    assert drifted <= 5


def test_distance_equals_a_naive_sum() -> None:
    draws = torch.Generator().manual_seed(1)
    old, new = torch.randn(7, 3, generator=draws), torch.randn(5, 3, generator=draws) + 1
    both = [*old, *new]
    width = torch.tensor([float((a - b) @ (a - b)) for n, a in enumerate(both) for b in both[n + 1 :]]).median()

    def kernel(these: torch.Tensor, those: torch.Tensor) -> float:
        return sum(float(torch.exp(-((a - b) @ (a - b)) / width)) for a in these for b in those) / (
            len(these) * len(those)
        )

    expected = kernel(old, old) + kernel(new, new) - 2 * kernel(old, new)
    assert compare_features(old, new, draws).distance == pytest.approx(expected, rel=1e-5)


def test_equal_images_have_no_distance() -> None:
    same = torch.ones(20, 4)
    assert compare_features(same, same, torch.Generator()).p_value == 1.0


def test_drift_starts_a_run_without_enough_new_samples(trained: Digits) -> None:
    planned = plan_next_run(trained.store, trained.task, Request())
    assert isinstance(planned, Plan)
    assert planned.reason.endswith("the images of blurred, inverted have drifted, and trigger.drift is run")
    assert [warning[:26] for warning in planned.warnings if "drift" in warning] == [
        "drop inverted has drifted:",
        "drop blurred has drifted: ",
    ]
    advised = plan_next_run(trained.store, trained.with_trigger(min_samples=100_000, drift="advise"), Request())
    assert isinstance(advised, NoRunNeeded)
    paused = plan_next_run(trained.store, trained.with_trigger(pause=True, drift="run"), Request())
    assert isinstance(paused, NoRunNeeded)


def test_status_commands_metrics_and_report_show_drift(trained: Digits, capfd: pytest.CaptureFixture[str]) -> None:
    assert [one.partition(":")[0] for one in read_status(trained.task, trained.store).drift] == [
        "drop blurred has drifted",
        "drop inverted has drifted",
        "drop same shows no drift",
    ]
    file = trained.folder / "pets.yaml"
    file.write_text(trained.task.model_dump_json())
    shown = retrain(["drop", "show", "inverted", "--task", str(file)], capfd)
    assert "drop inverted has drifted: " in shown.out
    printed = retrain(["drop", "drift", "--task", str(file)], capfd)
    assert (printed.code, printed.out.count("drifted"), printed.out.count("shows no drift")) == (0, 2, 1)
    watched = WatchedTask(trained.store)
    watched.state.refresh()
    assert {name.name: values for name, values in watched.state.metrics()}["retrain_drifted_drops"] == [(("pets",), 2)]
    page = render_page(read_sources(trained.store, trained.store.ledger.read()))
    assert "drop inverted has drifted" in page
    assert "drop same shows" not in page


def test_measured_drift_is_printed_or_logged_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    digits = Digits(tmp_path)
    digits.land("first", number=200)
    assert isinstance(stages.run_task(digits.context, digits.with_trigger(), Request()), RunRecord)
    digits.land("same", number=100)
    file = tmp_path / "pets.yaml"
    file.write_text(digits.task.model_dump_json())
    ran = retrain(["drop", "drift", "--task", str(file)], capfd)
    logged = [line for line in caplog.messages if "shows no drift" in line]
    assert (ran.out.count("shows no drift"), logged) == (1, []), "the result must not be both printed and logged"
    assert re.search(r"\d+ of its validation and test images were compared with \d+ of champion", ran.out)
    digits.land("inverted", ImageOps.invert, 100)
    for _ in range(2):
        try_measure_drifts(digits.context, digits.task)
    assert [line.split(":")[1] for line in caplog.messages if "drift" in line] == [" drop inverted has drifted"]


def test_watcher_measures_drift_and_starts_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    digits = Digits(tmp_path)
    digits.land("first", number=300)
    assert isinstance(stages.run_task(digits.context, digits.with_trigger(), Request()), RunRecord)
    runs = Recorder()
    watch = TaskWatch(digits.task, runs, Health(["pets"]))
    digits.land("inverted", ImageOps.invert, 200)
    watch.check_drops()
    watch.advance()
    [run_id] = runs.runs
    assert "the images of inverted have drifted" in digits.store.run(run_id).plan().reason


def test_damaged_drift_record_is_measured_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    digits = Digits(tmp_path)
    digits.land("first", number=200)
    assert isinstance(stages.run_task(digits.context, digits.with_trigger(), Request()), RunRecord)
    digits.land("same", number=100)
    [measured] = measure_drifts(digits.context, digits.task)
    digits.store.objects.write(digits.store.keys.drift(measured.run_id, "same"), b"{")
    assert read_status(digits.task, digits.store).drift == ()
    assert "was damaged" in caplog.text
    [again] = measure_drifts(digits.context, digits.task)
    assert (again.distance, again.p_value) == (measured.distance, measured.p_value)


def test_drift_without_a_champion_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pets.yaml"
    file.write_text(f"name: pets\nstore: {tmp_path / 'store'}\n")
    ran = retrain(["drop", "drift", "--task", str(file)], capfd)
    assert (ran.code, "has no champion yet" in ran.err) == (2, True)
