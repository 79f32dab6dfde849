"""Audit a task's store from its bytes only, without the code that wrote them.

`lost`: something that landed or was trained, promoted or recorded is missing or changed. `torn`: a visible object is
incomplete. `forked`: a champion does not follow from the champion before it.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from chaos.agreement import disagreements
from chaos.expected import Digests, Expected, Finding
from chaos.sums import BY_THE_GATE, Objects, is_record, promoted_by_gate, recount_savings


def audit(objects: Objects, expected: Expected, champions: Sequence[bytes] = ()) -> list[Finding]:
    """Return all errors. `champions` has all versions of champion.json, oldest first, if the store keeps versions."""
    torn = list(_torn(objects))
    if any(finding.where.endswith((".json", ".jsonl")) for finding in torn):
        return torn  # the other checks must read these files
    long = expected.long
    rewritten = _rewritten(champions, inherited=long.inherited if long else 0)
    found = [*torn, *_lost(objects, expected), *_forked(objects), *rewritten]
    return [*found, *disagreements(objects, long)] if long else found


def digests(objects: Objects, run: str) -> Digests:
    """Return the digests of a run's model, learning-speed index and curve."""
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
    """Yield the errors of all objects. An object is checked by its digest, or by its format if it has no digest."""
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
            yield Finding("torn", key, "its name does not contain its digest")


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
    if f"{here}/removed.json" in objects:
        yield from (Finding("torn", key, "a file of a removed model") for key in objects if _is_model(here, key))
        return
    yield from _against(objects, f"{here}/model.safetensors", result["model_digest"])
    drops = [drop["id"] for drop in _json(objects[f"{here}/plan.json"])["dataset"]["drops"]]
    index = [objects.get(f"{here}/learning_speed/{drop}.safetensors", b"") for drop in drops]
    if _sha256(*index) != result["index_digest"]:
        yield Finding("torn", f"{here}/learning_speed/", "not the learning-speed index with the digest in the result")
    points = [_json(line) for line in objects[f"{here}/curve.jsonl"].splitlines()]
    if points[-1]["iteration"] != result["iterations"]:
        yield Finding("torn", f"{here}/curve.jsonl", "ends before the run did")


def _is_model(folder: str, key: str) -> bool:
    return key.startswith(f"{folder}/") and key.endswith(".safetensors")


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
        if record["outcome"] == "failed":
            yield Finding("lost", f"ledger/{run}.json", f"failed: {record['error']}")
        elif record["savings"]:
            saved += recount_savings(objects, run)["gross"]
            yield from _record_lost(objects, record, expected.runs[run])
    if records.keys() == expected.runs.keys() and saved != expected.saved:
        yield Finding("lost", "ledger", f"gross savings are {saved}, but {expected.saved} without faults")


def _record_lost(objects: Objects, record: dict[str, Any], expected: Digests) -> Iterator[Finding]:
    run = record["run_id"]
    recounted = recount_savings(objects, run)
    differing = [
        f"{name} is {record['savings'].get(name)}, but should be {value:g}"
        for name, value in recounted.items()
        if not math.isclose(record["savings"].get(name, math.nan), value, rel_tol=1e-9, abs_tol=1e-9)
    ]
    if differing or not record["savings"].keys() >= recounted.keys():
        yield Finding("lost", f"ledger/{run}.json", f"savings: {'; '.join(differing) or list(record['savings'])}")
    if digests(objects, run) != expected:
        yield Finding(
            "lost", f"runs/{run}", "its model, learning-speed index or curve differs from the undisturbed run's"
        )


def _forked(objects: Objects) -> Iterator[Finding]:
    """Check that the history's entries follow one another, and that each promoted run has exactly one entry."""
    history = _json(objects["champion.json"])["history"] if "champion.json" in objects else []
    if [entry["sequence"] for entry in history] != list(range(1, len(history) + 1)):
        yield Finding("forked", "champion.json", "its sequence has gaps or repetitions")
    promoted = promoted_by_gate(objects)
    records = {data["run_id"]: data for data in (_json(objects[key]) for key in objects if is_record(key))}
    for run in sorted({*promoted, *records}):
        decision = records[run]["decision"] if run in records else None
        if promoted.count(run) != bool(decision and decision["promoted"]):
            yield Finding(
                "forked", f"ledger/{run}.json", f"promoted {promoted.count(run)} times, but its decision is {decision}"
            )
    for before, entry in zip([None, *history], history, strict=False):
        if entry["why"] in BY_THE_GATE and entry["run_id"] in records:
            yield from _misjudged(records[entry["run_id"]], before and before["run_id"])


def _misjudged(record: dict[str, Any], before: str | None) -> Iterator[Finding]:
    comparison = (record["evaluation"] or {}).get("comparison")
    against = comparison["champion"] if comparison else None
    if against != before:
        yield Finding("forked", f"ledger/{record['run_id']}.json", f"compared with {against}, but replaced {before}")


def _rewritten(champions: Sequence[bytes], inherited: int) -> Iterator[Finding]:
    """Yield an error for each version of the history that is not the version before it plus one entry.

    The scenario began with `inherited` entries.
    """
    histories = [[_known(entry) for entry in _json(version)["history"]] for version in champions]
    begun = histories[0][:inherited] if histories else []
    if histories and len(begun) == len(histories[0]):
        del histories[0]  # the version that the scenario began with
    for older, newer in zip([begun, *histories], histories, strict=False):
        if newer[:-1] != older:
            yield Finding("forked", "champion.json", f"{newer[-1]} does not follow {older[-1] if older else 'nothing'}")


def _known(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an entry that this version knows."""
    return {name: entry.get(name) for name in ("sequence", "run_id", "why", "at", "author", "reason")}
