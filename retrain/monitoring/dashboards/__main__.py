"""Write each dashboard into a folder as a JSON file."""

import json
import sys
from pathlib import Path

from retrain.monitoring.dashboards import live, savings

FILES = {"compute-savings.json": savings.DASHBOARD, "live-training.json": live.DASHBOARD}


def main(folder: Path) -> None:
    """Write every dashboard into this folder."""
    for name, dashboard in FILES.items():
        (folder / name).write_text(json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
