"""Compare the runs in two stores: curves, model digests and ledger records must be identical.

    python scripts/compare_runs.py BEFORE AFTER

Use this script to show that a refactoring does not change behaviour. Run the demo or a study before and after the
refactoring, in two folders. The script ignores times, machines and fields that only one side has. It exits with 1 if
there is a difference or if the first store has no runs.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IGNORED = {"started_at", "ended_at", "at", "machine", "costs", "run_id"}
IGNORED |= {"device_seconds", "device_seconds_all_in", "stage_seconds"}


def main() -> None:
    """Print every difference, and the numbers of runs."""
    before, after = (runs(Path(folder)) for folder in sys.argv[1:3])
    problems = [f"{name}: only in one store" for name in sorted(before.keys() ^ after.keys())]
    for name in sorted(before.keys() & after.keys()):
        problems += [f"{name}: {problem}" for problem in differences(before[name], after[name], "")]
    print("\n".join([*problems, f"{len(before)} runs before, {len(after)} after, {len(problems)} differences"]))
    sys.exit(bool(problems) or not before)


def runs(store: Path) -> dict[str, dict[str, Any]]:
    """Return the ledger record and the curve of every run, by task and by the run's position in the task."""
    found = {}
    for ledger in sorted(store.rglob("ledger")):
        records = [json.loads(path.read_text()) for path in ledger.glob("*.json")]
        for position, record in enumerate(sorted(records, key=lambda record: record["ended_at"])):
            curve = ledger.parent / "runs" / record["run_id"] / "curve.jsonl"
            lines = [json.loads(line) for line in curve.read_text().splitlines()] if curve.exists() else []
            found[f"{record['task']} {position} {record['method']}"] = {"record": record, "curve": lines}
    return found


def differences(before: Any, after: Any, path: str) -> Iterator[str]:
    """Yield the differences of two JSON values, in the fields that both values have."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() & after.keys() - IGNORED:
            yield from differences(before[key], after[key], f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{path}: {len(before)} entries before, {len(after)} after"
        for number, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from differences(one, other, f"{path}[{number}]")
    elif before != after:
        yield f"{path}: {before!r} before, {after!r} after"


if __name__ == "__main__":
    main()
