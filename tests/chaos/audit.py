"""Audit a task's store from its bytes only, without the code that wrote them.

`lost`: what was landed, trained, promoted or recorded and is not there, or not as it was. `torn`: a visible object that
is not whole. `forked`: champions that do not follow one from another.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["lost", "torn", "forked"]
Objects = Mapping[str, bytes]
"""Everything in a store under a task's name, by keys without that name."""
Digests = tuple[str, str, str]
"""Digests of a run's model, index and curve."""
IMAGE_SHARE = 1 / 3
"""What evaluating an image costs, as a share of training on it: one of three passes through the network."""
SCRATCH_SPREAD = 0.3
"""Standard error of what scratch takes, as a share of it, where one scratch run on an earlier dataset tells."""
TYPICAL_SHARE = 0.62
"""Share of its schedule after which scratch typically has its own accuracy: it counts as one more scratch run."""


class Finding(NamedTuple):
    """One error that the audit found."""

    kind: Kind
    where: str
    what: str


class Expected(NamedTuple):
    """The required result of a scenario."""

    drops: Mapping[str, str]
    """The drops that landed: `committed` or `quarantined`, by id."""
    runs: Mapping[str, Digests]
    """The result of each undisturbed run, by its id. Exactly these runs must have a record."""
    saved: int
    """Gross, over the ledger, in iterations."""


def audit(objects: Objects, expected: Expected, champions: Sequence[bytes] = ()) -> list[Finding]:
    """Return all errors; `champions` are all versions of the pointer, oldest first, where the store has them."""
    torn = list(_torn(objects))
    if any(finding.where.endswith((".json", ".jsonl")) for finding in torn):
        return torn  # an unreadable file has no links to follow
    return [*torn, *_lost(objects, expected), *_forked(objects), *_rewritten(champions)]


def digests(objects: Objects, run: str) -> Digests:
    """Return the digests of a run's model, index and curve."""
    result = _json(objects[f"runs/{run}/result.json"])
    return result["model_digest"], result["index_digest"], _sha256(objects[f"runs/{run}/curve.jsonl"])


def _json(data: bytes) -> Any:
    return json.loads(data)


def _sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _named(objects: Objects, folder: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the file of this name in each folder below `folder`."""
    for key, data in sorted(objects.items()):
        if key.startswith(f"{folder}/") and key.endswith(f"/{name}") and key.count("/") == 2:
            yield key.split("/")[1], _json(data)


def _torn(objects: Objects) -> Iterator[Finding]:
    """Yield the errors of all objects, each checked against its digest or, without one, its own grammar."""
    broken = [Finding("torn", key, "not JSON") for key, data in objects.items() if not _reads(key, data)]
    yield from broken
    if broken:
        return
    for drop, manifest in _named(objects, "drops", "drop.json"):
        for shard in manifest["shards"]:
            yield from _against(objects, f"drops/{drop}/{shard['name']}", shard["sha256"])
    for run, result in _named(objects, "runs", "result.json"):
        yield from _run_torn(objects, run, result)
    for key, data in objects.items():
        if "/state/" in key and _sha256(data)[:32] not in key:
            yield Finding("torn", key, "a state that is not what it is called after")


def _reads(key: str, data: bytes) -> bool:
    try:
        documents = data.splitlines() if key.endswith(".jsonl") else [data] if key.endswith(".json") else []
        return all(isinstance(_json(document), dict) for document in documents)
    except ValueError:
        return False


def _against(objects: Objects, key: str, sha256: str) -> Iterator[Finding]:
    if key not in objects or _sha256(objects[key]) != sha256:
        yield Finding("torn", key, "absent" if key not in objects else f"its SHA-256 is not {sha256}")


def _run_torn(objects: Objects, run: str, result: dict[str, Any]) -> Iterator[Finding]:
    here = f"runs/{run}"
    yield from _against(objects, f"{here}/model.safetensors", result["model_digest"])
    drops = [drop["id"] for drop in _json(objects[f"{here}/plan.json"])["dataset"]["drops"]]
    index = [objects.get(f"{here}/learning_speed/{drop}.safetensors", b"") for drop in drops]
    if _sha256(*index) != result["index_digest"]:
        yield Finding("torn", f"{here}/learning_speed/", "not the index that the result vouches for")
    points = [_json(line) for line in objects[f"{here}/curve.jsonl"].splitlines()]
    if points[-1]["iteration"] != result["iterations"]:
        yield Finding("torn", f"{here}/curve.jsonl", "ends before the run did")


def _lost(objects: Objects, expected: Expected) -> Iterator[Finding]:
    for drop, state in expected.drops.items():
        name = "drop.json" if state == "committed" else "quarantine.json"
        if f"drops/{drop}/{name}" not in objects:
            yield Finding("lost", f"drops/{drop}", f"is not {state}")
    records = {key.removeprefix("ledger/").removesuffix(".json"): key for key in objects if is_record(key)}
    for run in records.keys() ^ expected.runs.keys():
        yield Finding("lost", f"ledger/{run}.json", "not expected" if run in records else "no record")
    saved = 0.0
    for run in records.keys() & expected.runs.keys():
        record = _json(objects[records[run]])
        if record["outcome"] in ("completed", "reached"):
            saved += _recount_savings(objects, run)["gross"]
            yield from _record_lost(objects, record, expected.runs[run])
        else:
            yield Finding("lost", f"ledger/{run}.json", f"{record['outcome']}: {record['error']}")
    if records.keys() == expected.runs.keys() and saved != expected.saved:
        yield Finding("lost", "ledger", f"{saved} iterations saved, where a recount says {expected.saved}")


def _recount_savings(objects: Objects, run: str) -> dict[str, float]:
    """Count what a run saved from plans, results and the champions' history; records are not consulted.

    A scratch run is its own baseline. Another run is credited with what scratch takes if it reached its target, was
    promoted, and is the first on its dataset. Without that credit, its whole use is a loss.
    """
    plan, result = (_json(objects[f"runs/{run}/{name}.json"]) for name in ("plan", "result"))
    used: int = result["iterations"]
    all_in = used + result["cost"]["evaluated_images"] / plan["task"]["training"]["batch_size"] * IMAGE_SHARE
    baseline, whole, error = 0, 0, 0.0
    if plan["target"] is None:
        baseline = whole = all_in = used
    elif result["outcome"] == "reached" and run in _promoted(objects) and plan["replaces_scratch"]:
        baseline, whole, error = _recount_scratch(objects, plan)
    return {
        "baseline": baseline,
        "whole": whole,
        "used": used,
        "used_all_in": all_in,
        "gross": baseline - used,
        "net": baseline - all_in,
        "gross_whole": whole - used,
        "net_whole": whole - all_in,
        "standard_error": error,
    }


def _recount_scratch(objects: Objects, plan: dict[str, Any]) -> tuple[int, int, float]:
    """Return what scratch takes on a plan's dataset, its whole training, and the standard error of the first.

    A scenario has one scratch run. It took a share of its schedule to its own accuracy. The mean of this share and the
    typical one is applied to the longer schedule on the grown dataset.
    """
    baseline = plan["target"]["baseline_run"]
    points = [_json(line) for line in objects[f"runs/{baseline}/curve.jsonl"].splitlines()]
    reached = next(point["iteration"] for point in points if point["accuracy"] >= points[-1]["accuracy"])
    training, samples = plan["task"]["training"], sum(drop["samples"] for drop in plan["dataset"]["drops"])
    whole = round(training["epochs"] * samples / training["batch_size"])
    own = reached / points[-1]["iteration"]
    share = (own + TYPICAL_SHARE) / 2
    error = math.hypot(SCRATCH_SPREAD * share, own - share) * whole
    return round(round(share * whole, 1)), whole, round(error, 1)  # plans hold tenths


def _promoted(objects: Objects) -> list[str]:
    """Return the runs that the champions' history says were promoted."""
    history = _json(objects["champion.json"])["history"] if "champion.json" in objects else []
    return [entry["run_id"] for entry in history if entry["why"] == "promoted"]


def is_record(key: str) -> bool:
    """Return whether this is the record of an ended run."""
    return key.startswith("ledger/") and key.endswith(".json")


def _record_lost(objects: Objects, record: dict[str, Any], expected: Digests) -> Iterator[Finding]:
    run = record["run_id"]
    recounted = _recount_savings(objects, run)
    differing = [
        f"{name} {record['savings'].get(name)}, where a recount says {value:g}"
        for name, value in recounted.items()
        if not math.isclose(record["savings"].get(name, math.nan), value, rel_tol=1e-9, abs_tol=1e-9)
    ]
    if differing or record["savings"].keys() != recounted.keys():
        yield Finding("lost", f"ledger/{run}.json", f"savings: {'; '.join(differing) or list(record['savings'])}")
    if digests(objects, run) != expected:
        yield Finding("lost", f"runs/{run}", "its model, index or curve is not that of the undisturbed run")


def _forked(objects: Objects) -> Iterator[Finding]:
    """Check that the history's entries follow one another, and that each promoted run has one."""
    history = _json(objects["champion.json"])["history"] if "champion.json" in objects else []
    if [entry["sequence"] for entry in history] != list(range(1, len(history) + 1)):
        yield Finding("forked", "champion.json", "its sequence has gaps or repetitions")
    promoted = _promoted(objects)
    records = {data["run_id"]: data for data in (_json(objects[key]) for key in objects if is_record(key))}
    for run in sorted({*promoted, *records}):
        decision = records[run]["decision"] if run in records else None
        if promoted.count(run) != bool(decision and decision["promoted"]):
            yield Finding("forked", f"ledger/{run}.json", f"promoted {promoted.count(run)} times, by {decision}")
    for before, entry in zip([None, *history], history, strict=False):
        if entry["why"] == "promoted" and entry["run_id"] in records:
            yield from _misjudged(records[entry["run_id"]], before and before["run_id"])


def _misjudged(record: dict[str, Any], before: str | None) -> Iterator[Finding]:
    comparison = (record["evaluation"] or {}).get("comparison")
    against = comparison["champion"] if comparison else None
    if against != before:
        yield Finding("forked", f"ledger/{record['run_id']}.json", f"judged against {against}, and replaced {before}")


def _rewritten(champions: Sequence[bytes]) -> Iterator[Finding]:
    """Yield an error for each version of the history that is not the version before plus one entry."""
    histories = [_json(version)["history"] for version in champions]
    for older, newer in zip([[], *histories], histories, strict=False):
        if newer[:-1] != older:
            yield Finding("forked", "champion.json", f"{newer[-1]} does not follow {older[-1] if older else 'nothing'}")
