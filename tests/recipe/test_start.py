"""The start of a run follows from the parent's architecture and from how far it has fitted its data."""

import subprocess
import sys

import pytest

from retrain.config.recipe import Auto, ShrinkPerturb, Warm
from retrain.recipe.start import resolve_start

SHRUNK, KEPT = ShrinkPerturb(new_rows="class_means"), Warm(head_rows="class_means")


@pytest.mark.parametrize(
    ("normalised", "train", "val", "start", "reason"),
    [
        (True, 0.99, 0.30, SHRUNK, "it is fitted, with a training error 0.01 times"),
        (True, 0.60, 0.30, SHRUNK, "it is fitted, with a training error 0.57 times"),
        (True, 0.50, 0.30, KEPT, "it is under-fitted, with a training error 0.71 times"),
        (True, 0.30, 0.35, KEPT, "it is under-fitted, with a training error 1.08 times"),
        (True, 1.0, 1.0, SHRUNK, "it is fitted, with a training error 0.00 times"),
        (True, None, 0.30, SHRUNK, "its training accuracy is unknown"),
        (True, 0.99, None, SHRUNK, "its training accuracy is unknown"),
        (False, 0.99, 0.30, KEPT, "without normalisation layers"),
        (False, None, None, KEPT, "without normalisation layers"),
    ],
)
def test_resolve_start_follows_from_the_parent(
    normalised: bool, train: float | None, val: float | None, start: Warm | ShrinkPerturb, reason: str
) -> None:
    resolved, why = resolve_start(Auto(), normalised, train, val)
    assert resolved == start
    assert reason in why
    assert why.endswith(".")


def test_resolve_start_passes_its_settings_on() -> None:
    auto = Auto(alpha=0.6, beta=0.01, head_rows="fresh")
    assert resolve_start(auto, True, None, None)[0] == ShrinkPerturb(alpha=0.6, beta=0.01, new_rows="fresh")
    assert resolve_start(auto, False, None, None)[0] == Warm(head_rows="fresh")


def test_start_is_chosen_without_torch() -> None:
    code = "import sys, retrain.recipe.start; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
