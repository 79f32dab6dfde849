"""Write a task and a store with this version of retrain. Tests of later versions read them. Run this at each release.

    PYTHONPATH=tests .venv/bin/python tests/store/golden/write.py tests/store/golden/VERSION.tar.xz

Add the archive and the ids that this prints to `GOLDEN` in tests/support/versions.py. The store has three
drops, a fourth drop in quarantine, an amendment and an erasure. Two runs were promoted, the second after a person's
approval. A third run was killed at its sixth iteration. It has checkpoints of the fourth and fifth iteration.
"""

import argparse
import json
import sys
import tarfile
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from support.terminal import call
from support.trainings import RecordingObserver
from support.workspaces import Workspace, plan, run

from retrain.cli.run import AWAITS_APPROVAL
from retrain.config.loading import load_task
from retrain.pipeline import stages
from retrain.store import LocalStore
from retrain.training.progress import Progress

TASK = """\
name: pets
schema_version: 1
data: {image_size: 8, crop_padding: 0, flip: false, val_share: 0.25, test_share: 0.25}
model: {name: logistic}
training: {epochs: 10, batch_size: 16, save_seconds: 0, optimizer: {name: adam, learning_rate: 0.003}}
gate: {margin: 0.2}
"""
KILLED_AT = 6


class Killed(BaseException):
    """A substitute for SIGKILL. No stage handles this exception, so nothing is recorded."""


class KillingObserver(RecordingObserver):
    """An observer that ends the training at iteration `KILLED_AT`. The previous iteration has a checkpoint."""

    def stepped(self, progress: Progress) -> None:
        if progress.iteration == KILLED_AT:
            raise Killed


def command(*words: str, code: int = 0) -> None:
    """Run `retrain` in the current folder. Exit if its exit code is not `code`."""
    if call([*words, "--task", "pets.yaml"]) != code:
        raise SystemExit(f"`retrain {' '.join(words)}` failed")


def write_store(folder: Path) -> tuple[str, ...]:
    """Write the store in a folder. Return the ids of the first run, the champion's run and the killed run."""
    (folder / "pets.yaml").write_text(f"{TASK}store: store\n")
    task, workspace = load_task("pets.yaml"), Workspace(LocalStore(folder / "store"), folder / "work")
    workspace.pack(0, 1, seed=1)
    scratch = run(workspace, task).run_id
    drop = workspace.pack(0, 1, 2, seed=2)
    correction = {"drop": drop.id, "key": "class-1/2-41", "class": "class-0", "reason": "seen again", "author": "ann"}
    (folder / "work" / "corrections.jsonl").write_text(json.dumps(correction) + "\n")
    command("drop", "amend", "work/corrections.jsonl")
    command(
        "drop", "erase", "--key", "class-2/2-81", "--drop", drop.id, "--reason", "asked to", "--author", "ann", "-y"
    )
    workspace.store.drops.quarantine("week-3", "train-000000.tar: it ends in the middle of sample 7")
    command("run", "--set", "gate.approval=manual", code=AWAITS_APPROVAL)
    (waiting,) = workspace.store.approvals.unfinished()
    command("approve", waiting.run_id, "--reason", "looks right", "--author", "ann")
    workspace.pack(1, 2, seed=3)
    unfinished = plan(workspace, task)
    workspace.context.files(unfinished.run_id).write_plan(unfinished)
    try:
        stages.train(replace(workspace.context, observer=KillingObserver()), unfinished)
    except Killed:
        return scratch, waiting.run_id, unfinished.run_id
    raise SystemExit(f"the run ended before iteration {KILLED_AT}")


def public(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Return an entry of the archive without its owner. Return None for leases, because they name this machine."""
    if Path(entry.name).name in ("lease.json", ".retrain"):
        return None
    entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, "", ""
    return entry


def main() -> None:
    """Write the archive to the path on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    archive = parser.parse_args().archive.absolute()
    with TemporaryDirectory() as name, chdir(name):
        print(*write_store(Path(name)), file=sys.stderr)
        with tarfile.open(archive, "w:xz") as tar:
            for part in ("pets.yaml", "store"):
                tar.add(part, filter=public)


if __name__ == "__main__":
    main()
