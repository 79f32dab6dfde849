"""Run the pipeline on this machine, with one process for each step."""

import logging
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import TextIOBase
from tempfile import TemporaryDirectory
from uuid import uuid4

from kfp import dsl, local
from kfp.dsl.graph_component import GraphComponent

from retrain.config.task import Task
from retrain.errors import RunError
from retrain.kubeflow.client import pipeline_arguments
from retrain.kubeflow.records import read_submission
from retrain.pipeline import next_run
from retrain.pipeline.approval import find_approval
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.records import Approval, RunRecord
from retrain.store.task_store import TaskStore, open_task_store
from retrain.utils.clock import utc_now

DefinePipeline = Callable[[Task, str, Callable[[dsl.PipelineTask, str], None]], GraphComponent]
"""Function that defines a task's pipeline. It gets the image of the steps, and a function that configures a step's
process."""

IMAGE = "python"
"""Placeholder: no image is used, but kfp warns about names without `python`."""


def run_locally(
    task: Task, request: Request, device: str, define: DefinePipeline
) -> RunRecord | Approval | NoRunNeeded:
    """Run a task's pipeline in processes on this machine, and return its result.

    Raises `UserError` if the task, its data or the device are wrong.
    """
    if device not in ("auto", "cpu"):  # every machine has these two; importing torch takes seconds
        from retrain.pipeline.context import pick_device

        pick_device(device)
    store, submission = open_task_store(task), uuid4().hex
    output = StepLines()
    with TemporaryDirectory(prefix="retrain-") as root, redirect_stdout(output), _mute_kfp():

        def use_temporary_folder(step: dsl.PipelineTask, name: str) -> None:
            step.set_env_variable("TMPDIR", root)  # kfp puts a step's source there and does not remove it

        local.init(
            local.SubprocessRunner(use_venv=False),
            root,
            workspace_root=f"{root}/workspace",  # kfp removes it at the end
            raise_on_error=False,
        )
        define(task, IMAGE, use_temporary_folder)(**pipeline_arguments(task, request, device, submission))
    return _read_result(store, submission, output)


@contextmanager
def _mute_kfp() -> Iterator[None]:
    """Stop kfp from logging its own progress."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _read_result(store: TaskStore, submission: str, output: "StepLines") -> RunRecord | Approval | NoRunNeeded:
    found = read_submission(store, submission)
    if found and found.error:
        raise RunError(found.error)
    if found and found.nothing:
        return NoRunNeeded(found.nothing, awaits_approval=found.awaits_approval)
    if found and found.run_id:
        last = next_run.latest_attempt(store, store.run(found.run_id).plan())
        if record := store.ledger.find(last.run_id):
            return record
        if approval := find_approval(store, last, utc_now()):
            return approval
    raise RunError("the pipeline ended without a record; the last lines of its output:\n" + "".join(output.last))


class StepLines(TextIOBase):
    """Writes the steps' log lines to standard error, and keeps the last lines of all output for an error message."""

    def __init__(self) -> None:
        self.last: deque[str] = deque(maxlen=40)
        self._line = ""

    def write(self, text: str) -> int:
        """Buffer text, and process complete lines."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self.last.append(f"{line}\n")
            if re.match(r" *\d\d:\d\d:\d\d ", line):
                print(line.strip(), file=sys.stderr)
        return len(text)
