"""Compare a long scenario's ledger, store and history with each other, with the output of commands, and with the
undisturbed scenario (the same scenario without faults).
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from chaos.expected import Entry, Finding, LongExpected
from chaos.sums import Objects, is_record, recount_savings

TRANSIENT = ("lease.json", "validations/")
"""Parts of keys that a killed process may leave behind. A finished process may or may not remove them."""
METRICS = {
    "used": "retrain_used_iterations_total",
    "used_all_in": "retrain_used_all_in_iterations_total",
    "baseline": "retrain_baseline_iterations_total",
    "whole": "retrain_whole_scratch_iterations_total",
    "gross": "retrain_saved_gross_iterations",
    "net": "retrain_saved_net_iterations",
    "gross_whole": "retrain_saved_whole_gross_iterations",
    "net_whole": "retrain_saved_whole_net_iterations",
    "standard_error": "retrain_saved_standard_error_iterations",
}
"""The metrics of the ledger's sums, by the names of the sums' fields."""


def disagreements(objects: Objects, expected: LongExpected) -> Iterator[Finding]:
    """Yield every disagreement at the end of a long scenario."""
    records = {data["run_id"]: data for data in (json.loads(objects[key]) for key in objects if is_record(key))}
    yield from _misreported(objects, records, expected.outputs)
    yield from _other_history(objects, expected)
    yield from _other_objects(objects, records, expected)
    yield from _credited_twice(objects, records)
    for number, data in enumerate(expected.erased):
        for key in sorted(key for key, found in objects.items() if data in found):
            yield Finding("lost", key, f"contains erased sample {number}")


def entries(objects: Objects) -> list[Entry]:
    """Return the history of champions, without times."""
    history = json.loads(objects["champion.json"])["history"] if "champion.json" in objects else []
    return [(entry["run_id"], entry["why"], entry.get("author"), entry.get("reason")) for entry in history]


def permanent_keys(objects: Objects, recorded: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of a store, without the keys of temporary files that a killed process may leave."""
    return frozenset(key for key in objects if not _is_transient(key, recorded))


def _is_transient(key: str, recorded: Mapping[str, Any]) -> bool:
    of_open_run = "/state/" in key and key.split("/")[1] not in recorded
    return of_open_run or any(part in key for part in TRANSIENT)


def _misreported(objects: Objects, records: Mapping[str, Any], outputs: Mapping[str, str]) -> Iterator[Finding]:
    """Compare the output of commands with sums over plans, results and curves."""
    recounted = [recount_savings(objects, run) for run in records if records[run]["savings"]]
    sums = {name: sum(each[name] for each in recounted) for name in recounted[0]}
    status, history = json.loads(outputs["status"]), json.loads(outputs["history"])
    shown = {record["run_id"]: record for record in history}
    if [record["run_id"] for record in history] != [*sorted(shown, key=lambda run: (shown[run]["ended_at"], run))]:
        yield Finding("lost", "retrain history", "its runs are not in the order in which they ended")
    if shown.keys() != records.keys():
        yield Finding(
            "lost",
            "retrain history",
            f"runs missing in its output or in the ledger: {sorted(shown.keys() ^ records.keys())}",
        )
    for name, value in sums.items():
        if not math.isclose(status["savings"][name], value, rel_tol=1e-9, abs_tol=1e-6):
            yield Finding("lost", "retrain status", f"{name} is {status['savings'][name]}, but should be {value}")
    champion = json.loads(objects["champion.json"])["history"][-1]["run_id"]
    if (status["champion"]["run_id"], status["runs"]) != (champion, len(records)):
        yield Finding(
            "forked", "retrain status", f"champion is {status['champion']['run_id']}, but the store has {champion}"
        )
    yield from _mismeasured(sums, records, outputs["metrics"])


def _mismeasured(sums: Mapping[str, float], records: Mapping[str, Any], metrics: str) -> Iterator[Finding]:
    values = defaultdict[str, float](float)
    for line in metrics.splitlines():
        if not line.startswith("#"):
            sample, _, figure = line.rpartition(" ")
            values[sample.partition("{")[0]] += float(figure)
    expected = {METRICS[field]: value for field, value in sums.items()} | {"retrain_runs_total": len(records)}
    for name, value in expected.items():
        if not math.isclose(values[name], value, rel_tol=1e-6, abs_tol=1e-6):
            yield Finding("lost", "retrain metrics", f"{name} is {values[name]}, but should be {value}")


def _other_history(objects: Objects, expected: LongExpected) -> Iterator[Finding]:
    found = entries(objects)
    for number, (entry, wanted) in enumerate(zip(found, expected.history, strict=False), 1):
        if entry != wanted:
            yield Finding("forked", "champion.json", f"entry {number} is {entry}, but {wanted} without faults")
            return
    if len(found) != len(expected.history):
        yield Finding("forked", "champion.json", f"{len(found)} entries, but {len(expected.history)} without faults")


def _other_objects(objects: Objects, records: Mapping[str, Any], expected: LongExpected) -> Iterator[Finding]:
    """Compare the keys of the store with the keys of the undisturbed scenario. Finished runs leave no checkpoints."""
    for key in sorted(permanent_keys(objects, records) ^ expected.keys):
        yield Finding("lost", key, "is unexpected" if key in objects else "is missing")


def _credited_twice(objects: Objects, records: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield an error for each dataset with more than one credited run. A scenario with races may have such datasets."""
    credited = Counter(record["dataset_digest"] for record in records.values() if record["savings"]["baseline"])
    for dataset, count in credited.items():
        if count > 1:
            yield Finding("lost", "ledger", f"{count} runs on dataset {dataset} have a baseline above zero")
