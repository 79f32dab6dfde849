"""`make chaos`: run random scenarios under faults, and count the findings of the audit."""

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from lib.report import parser, report
from support.aws import AWS
from support.s3_server import serving_s3

from chaos.breaks import BREAKS
from chaos.scenarios import Harness, scenarios


def main() -> None:
    """Run and audit the scenarios, print the counts, and exit with 1 if anything was found."""
    options = parser(__doc__)
    options.add_argument("--scenarios", type=int, default=50, help="of two to four runs each")
    options.add_argument("--seed", type=int, default=0, help="of the first scenario; the others' follow")
    options.add_argument("--break", dest="broken", choices=sorted(BREAKS), help="a deliberate bug, to be found")
    chosen = options.parse_args()
    os.environ.update(AWS)
    started, faults, found, runs = time.monotonic(), Counter[str](), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="retrain-chaos-") as folder, serving_s3() as server:
        harness = Harness(Path(folder), server)
        for ended in harness.run(scenarios(chosen.scenarios, first=chosen.seed), chosen.broken):
            print(ended, flush=True)
            faults += ended.faults
            runs += ended.runs
            found.update(finding.kind for finding in ended.findings)
    verdict = ", ".join(f"{found[kind]} {kind}" for kind in ("lost", "torn", "forked"))
    figures = {
        "scenarios": chosen.scenarios,
        "runs": runs,
        "seeds": [chosen.seed, chosen.seed + chosen.scenarios - 1],
        "deliberate_bug": chosen.broken,
        "faults": faults.total(),
        "by_fault": dict(sorted(faults.items())),
        "seconds": round(time.monotonic() - started),
        "verdict": verdict,
    }
    report(figures, chosen.output)
    print(f"{faults.total()} faults in {runs} runs: {verdict}")
    sys.exit(found.total() > 0)
