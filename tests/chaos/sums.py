"""Compute the savings of runs again from plans, results, curves and the champions' history, without the records.

It shares no code with `retrain.pipeline.accounting` and `retrain.pipeline.targets`.
"""

import json
import math
from collections.abc import Mapping
from statistics import mean
from typing import Any

Objects = Mapping[str, bytes]
"""All objects of a task, by keys without the task's name."""
Sums = dict[str, float]
"""Savings by the names of their fields."""
IMAGE_SHARE = 1 / 3
"""Cost of evaluating an image, as a share of training on it: one of three passes through the network."""
SCRATCH_SPREAD = 0.3
"""Standard error of scratch's iterations, as a share of them, if they are estimated from runs on earlier datasets."""
TYPICAL_SHARE = 0.62
"""Share of the schedule after which a scratch run first has its final accuracy, measured on other tasks. An estimate
includes it like one more scratch run of the task."""
NEWEST = 10
"""Number of scratch runs from which scratch's iterations are estimated."""
BY_THE_GATE = ("promoted", "approved")
"""Names of a promotion by the gate in the champions' history."""


def recount_savings(objects: Objects, run: str) -> Sums:
    """Return the savings of a run.

    A scratch run is its own baseline. Another run is credited with scratch's iterations if it ended at its target,
    passed the gate, and is the first on its dataset. Otherwise, its baseline is zero and its savings are negative. A
    calibration has negative net savings, and its gross savings are zero.
    """
    plan, result = read_run(objects, run)
    used: int = result["iterations"]
    all_in = used + result["cost"]["evaluated_images"] / plan["task"]["training"]["batch_size"] * IMAGE_SHARE
    if plan["purpose"] == "calibrate":
        return _difference(0, 0, used, all_in) | {"gross": 0, "gross_whole": 0}
    if plan["target"] is None:
        is_first = plan["replaces_scratch"] and result["outcome"] == "completed"
        return _difference(used, used, used, used) if is_first else _difference(0, 0, used, all_in)
    if result["outcome"] == "reached" and run in promoted_by_gate(objects) and plan["replaces_scratch"]:
        baseline, whole, error = _scratch(objects, plan, result["started_at"])
        return _difference(baseline, whole, used, all_in) | {"standard_error": error}
    return _difference(0, 0, used, all_in)


def _difference(baseline: float, whole: float, used: float, all_in: float) -> Sums:
    return {
        "baseline": baseline,
        "whole": whole,
        "used": used,
        "used_all_in": all_in,
        "gross": baseline - used,
        "net": baseline - all_in,
        "gross_whole": whole - used,
        "net_whole": whole - all_in,
        "standard_error": 0.0,
    }


def _scratch(objects: Objects, plan: dict[str, Any], before: str) -> tuple[int, int, float]:
    """Return scratch's iterations to its final accuracy, the iterations of its full training, and a standard error.

    The standard error belongs to the first number. This number is the mean over the scratch runs on this dataset, if
    there are any. Otherwise, it is the schedule times a mean share. The mean is over `TYPICAL_SHARE` and over the
    shares of their schedules after which earlier scratch runs first had their final accuracy.
    """
    training, samples = plan["task"]["training"], sum(drop["samples"] for drop in plan["dataset"]["drops"])
    whole = round(training["epochs"] * samples / training["batch_size"])
    runs = _scratch_runs(objects, before)
    if same := [reached for dataset, reached, _ in runs if dataset == plan["dataset"]]:
        return round(mean(same)), whole, 0.0
    shares = [reached / iterations for _, reached, iterations in runs]
    share = mean([*shares, TYPICAL_SHARE])
    squares = (SCRATCH_SPREAD * share) ** 2 + sum((each - share) ** 2 for each in shares)
    return (
        round(round(share * whole, 1)),
        whole,
        round(math.sqrt(squares / len(shares)) * whole, 1),
    )  # a plan states tenths


def _scratch_runs(objects: Objects, before: str) -> list[tuple[Any, int, int]]:
    """Return the newest scratch runs that had a record before this time.

    Each item has the dataset, the iterations after which the run first had its final accuracy, and all its iterations.
    """
    found = []
    for run, ended_at in sorted(_recorded(objects).items(), key=lambda item: item[1]):
        plan, result = read_run(objects, run)
        if plan["method"] == "scratch" and result["outcome"] == "completed" and ended_at < before:
            points = [json.loads(line) for line in objects[f"runs/{run}/curve.jsonl"].splitlines()]
            reached = next(point["iteration"] for point in points if point["accuracy"] >= points[-1]["accuracy"])
            found.append((plan["dataset"], reached, points[-1]["iteration"]))
    return found[-NEWEST:]


def _recorded(objects: Objects) -> dict[str, str]:
    """Return the time at which each run with a result ended, by the run's id."""
    records = [json.loads(data) for key, data in objects.items() if is_record(key)]
    return {record["run_id"]: record["ended_at"] for record in records if record["result"]}


def is_record(key: str) -> bool:
    """Return whether this is the record of an ended run."""
    return key.startswith("ledger/") and key.endswith(".json")


def read_run(objects: Objects, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a run's plan and result."""
    plan, result = (json.loads(objects[f"runs/{run}/{name}.json"]) for name in ("plan", "result"))
    return plan, result


def promoted_by_gate(objects: Objects) -> list[str]:
    """Return the runs in the champions' history that the gate promoted. Leave out runs that a person promoted."""
    history = json.loads(objects["champion.json"])["history"] if "champion.json" in objects else []
    return [entry["run_id"] for entry in history if entry["why"] in BY_THE_GATE]
