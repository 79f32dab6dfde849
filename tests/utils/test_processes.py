"""A subprocess ends when its parent ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

from support.programs import python_environment


def write_pid_and_sleep(pid_file: Path) -> None:
    pid_file.write_text(f"{os.getpid()}\n")
    time.sleep(600)


def runs(pid: int) -> bool:
    """Return whether a process has not ended. A zombie has ended."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_subprocess_exits_when_its_parent_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "note"
    code = (
        "import sys; from pathlib import Path; from test_processes import write_pid_and_sleep\n"
        "from retrain.utils.processes import run_in_subprocess\n"
        "run_in_subprocess('sleeping', 600, write_pid_and_sleep, Path(sys.argv[1]))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(pid_file)], env=python_environment()) as parent:
        deadline = time.monotonic() + 240
        while not (pid_file.exists() and pid_file.read_text().endswith("\n")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child = int(pid_file.read_text())
        assert runs(child)
        parent.kill()
    deadline = time.monotonic() + 240
    while runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
