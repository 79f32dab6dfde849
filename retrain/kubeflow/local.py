"""Run the pipeline on this machine, with one process for each step, as in a cluster."""

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
from retrain.pipeline.context import Context, make_context
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.records import Approval, RunRecord
from retrain.store.task_store import open_task_store

DefinePipeline = Callable[[Task, str, Callable[[dsl.PipelineTask, str], None]], GraphComponent]
"""Define a task's pipeline with its steps in an image, and a function that configures each step's process."""

IMAGE = "python"
"""No image is used; kfp warns of names that do not sound like Python."""


def run_locally(
    task: Task, request: Request, device: str, define: DefinePipeline
) -> RunRecord | Approval | NoRunNeeded:
    """Run a task's pipeline in processes on this machine, and return how it ended.

    Raises `UserError` if the task or its data do not let it be planned.
    """
    context = make_context(open_task_store(task), task, device)
    submission = uuid4().hex
    said = StepLines()
    with TemporaryDirectory(prefix="retrain-") as root, redirect_stdout(said), _quiet():

        def keep_tidy(step: dsl.PipelineTask, name: str) -> None:
            step.set_env_variable("TMPDIR", root)  # where kfp puts a step's source, and leaves it

        local.init(
            local.SubprocessRunner(use_venv=False),
            root,
            workspace_root=f"{root}/workspace",  # which kfp removes at the end
            raise_on_error=False,
        )
        define(task, IMAGE, keep_tidy)(**pipeline_arguments(task, request, device, submission))
    return _outcome(context, submission, said)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep kfp from logging its own progress."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _outcome(context: Context, submission: str, said: "StepLines") -> RunRecord | Approval | NoRunNeeded:
    found = read_submission(context.store, submission)
    if found and found.error:
        raise RunError(found.error)
    if found and found.nothing:
        return NoRunNeeded(found.nothing)
    if found and found.run_id:
        last = next_run.latest_attempt(context.store, context.files(found.run_id).plan())
        if record := context.store.ledger.find(last.run_id):
            return record
        if approval := find_approval(context.store, last, context.clock()):
            return approval
    raise RunError("the pipeline ended without a record; the last that its steps said:\n" + "".join(said.last))


class StepLines(TextIOBase):
    """Lets through to standard error what steps log, and keeps the last of what kfp says of itself."""

    def __init__(self) -> None:
        self.last: deque[str] = deque(maxlen=40)
        self._line = ""

    def write(self, text: str) -> int:
        """Take text as it comes, and pass on whole lines."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self.last.append(f"{line}\n")
            if re.match(r" *\d\d:\d\d:\d\d ", line):
                print(line.strip(), file=sys.stderr)
        return len(text)
