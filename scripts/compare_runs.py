"""Compare the runs in two stores: curves, model digests and ledger figures must be identical.

    python scripts/compare_runs.py BEFORE AFTER

A refactoring shows with it that behaviour stayed the same: the demo or a study is run before and after, each into a
folder of its own. Times, machines and fields that only one side has are left out. Exits with 1 at a difference.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IGNORED = {"started_at", "ended_at", "at", "device_seconds", "device_seconds_all_in", "machine", "costs", "run_id"}


def main() -> None:
    """Print every difference, and how many runs were compared."""
    before, after = (runs(Path(folder)) for folder in sys.argv[1:3])
    problems = [f"{name}: only in one store" for name in sorted(before.keys() ^ after.keys())]
    for name in sorted(before.keys() & after.keys()):
        problems += [f"{name}: {problem}" for problem in differences(before[name], after[name], "")]
    print("\n".join([*problems, f"{len(before)} runs before, {len(after)} after, {len(problems)} differences"]))
    sys.exit(bool(problems) or not before)


def runs(store: Path) -> dict[str, dict[str, Any]]:
    """Return ledger record and curve of every run, by task and by its place among the task's runs."""
    found = {}
    for ledger in sorted(store.rglob("ledger")):
        records = [json.loads(path.read_text()) for path in ledger.glob("*.json")]
        for place, record in enumerate(sorted(records, key=lambda record: record["ended_at"])):
            curve = ledger.parent / "runs" / record["run_id"] / "curve.jsonl"
            lines = [json.loads(line) for line in curve.read_text().splitlines()] if curve.exists() else []
            found[f"{record['task']} {place} {record['method']}"] = {"record": record, "curve": lines}
    return found


def differences(before: Any, after: Any, path: str) -> Iterator[str]:
    """Yield where two JSON values differ, in what both of them have."""
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
