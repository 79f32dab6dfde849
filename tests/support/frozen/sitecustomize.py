"""Freeze the first process of a training that torchrun starts: Python runs this file at the start of every process.

Only where PYTHONPATH names this folder, as `support.writes.frozen_environment` has it.
"""

import os
from pathlib import Path

if os.environ.get("RANK") == "0" and "FREEZE_NOTE" in os.environ:
    from support.writes import freeze_at_state

    freeze_at_state(int(os.environ["FREEZE_AT_STATE"]))
    Path(os.environ["FREEZE_NOTE"]).write_text(f"{os.getpid()}\n")
