"""Write a task's ledger and curves as event files for TensorBoard, one folder for each run."""

import shutil
from pathlib import Path
from uuid import uuid4

from retrain.records import RunRecord
from retrain.store.task_store import TaskStore
from retrain.tracking.figures import figures_of, settings_of, summary_of
from retrain.utils.extras import require_extra


def write_event_files(store: TaskStore, folder: Path) -> int:
    """Write the runs that the folder lacks, and return their number. Each run's folder appears when it is complete.

    Several processes can write into one folder. A run that another process has written meanwhile is not counted.

    Raises `UserError` if TensorBoard is not installed.
    """
    require_extra("tensorboard", "Tracking in TensorBoard")
    new = [record for record in store.ledger.read() if not (folder / record.run_id).exists()]
    added = 0
    for record in new:
        part = folder / f".{record.run_id}-{uuid4().hex}"
        try:
            _write_run(store, record, part)
            added += _rename_unless_exists(part, folder / record.run_id)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return added


def _rename_unless_exists(part: Path, folder: Path) -> bool:
    """Rename a folder, and return whether that was done. Return False if the new name is taken."""
    try:
        part.rename(folder)
    except OSError:
        if folder.exists():
            return False
        raise
    return True


def _write_run(store: TaskStore, record: RunRecord, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    files, ended = store.run(record.run_id), record.ended_at.timestamp()
    rows = [f"| {name} | {value} |" for name, value in settings_of(files.plan()).items()]
    with SummaryWriter(str(folder)) as writer:
        for name, value, iteration in figures_of(files):
            writer.add_scalar(name, value, iteration, ended)
        for name, value in summary_of(record).items():
            writer.add_scalar(name, value, 0, ended)
        writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *rows]), 0, ended)
        writer.add_text("outcome", record.ending, 0, ended)
