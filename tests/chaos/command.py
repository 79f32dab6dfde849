"""`make chaos`: run random scenarios under faults, and count the findings of the audit."""

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from lib.report import parser, report
from support.programs import AWS
from support.s3_server import serving_s3

from chaos.breaks import BREAKS
from chaos.scenarios import Harness, long_scenarios, scenarios


def main() -> None:
    """Run and audit the scenarios, print the counts, and exit with 1 if anything was found."""
    options = parser(__doc__)
    options.add_argument("--scenarios", type=int, default=50, help="number of scenarios, with two to four runs each")
    options.add_argument(
        "--long", type=int, default=2, help="number of long scenarios; even seeds use a folder, odd seeds use S3"
    )
    options.add_argument("--drops", type=int, default=60, help="number of drops of each long scenario")
    options.add_argument(
        "--seed", type=int, default=0, help="seed of the first scenario; later scenarios have the next seeds"
    )
    options.add_argument(
        "--break", dest="broken", choices=sorted(BREAKS), help="deliberate bug that the audit must find"
    )
    chosen = options.parse_args()
    os.environ.update(AWS)
    started, runs = time.monotonic(), 0
    faults, team_actions, findings = Counter[str](), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="retrain-chaos-") as folder, serving_s3() as server:
        harness = Harness(Path(folder), server)
        planned = long_scenarios(chosen.long, chosen.drops, chosen.seed) + scenarios(
            chosen.scenarios, first=chosen.seed
        )
        for ended in harness.run(planned, chosen.broken):
            print(ended, flush=True)
            faults += ended.faults
            team_actions += ended.team_actions
            runs += ended.runs
            findings.update(finding.kind for finding in ended.findings)
    verdict = ", ".join(f"{findings[kind]} {kind}" for kind in ("lost", "torn", "forked"))
    figures = {
        "scenarios": chosen.scenarios,
        "long_scenarios": chosen.long,
        "drops_of_each": chosen.drops,
        "runs": runs,
        "seeds": [chosen.seed, chosen.seed + max(chosen.scenarios, chosen.long) - 1],
        "deliberate_bug": chosen.broken,
        "faults": faults.total(),
        "by_fault": dict(sorted(faults.items())),
        "in_long_scenarios": dict(sorted(team_actions.items())),
        "seconds": round(time.monotonic() - started),
        "verdict": verdict,
    }
    report(figures, chosen.output)
    print(f"{faults.total()} faults in {runs} runs: {verdict}")
    sys.exit(findings.total() > 0)
