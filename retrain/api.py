"""The functions of the Python API, available as `retrain.load_champion`, `retrain.run`, ...

The names in `retrain.__all__` are stable: they change only with a line in the changelog. Everything else is internal.
Heavy imports stay inside the functions.
"""

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.config import Method
from retrain.config.loading import load_task
from retrain.config.task import Task
from retrain.records import RunRecord

if TYPE_CHECKING:
    import pandas

    from retrain.inference.model import Model


def load_champion(
    task_or_store: Task | str | Path, *, device: str = "auto", factories: Collection[str] = ()
) -> "Model":
    """Load the champion's model.

    `task_or_store` is a task, its name or file, or its folder in a store, such as `s3://bucket/prefix/birds`.
    `factories` lists the network factories (`package.module:factory`) that may be imported, besides the factories
    that the task file allows. Raises `UserError` if there is no champion.
    """
    from retrain.inference.loading import find_source, load_model

    return load_model(find_source(task_or_store, factories), device=device)


def load_run(
    task_or_store: Task | str | Path, run_id: str, *, device: str = "auto", factories: Collection[str] = ()
) -> "Model":
    """Load the model of an ended run. The other arguments are the same as in `load_champion`.

    Raises `UserError` if the run does not exist or has no model.
    """
    from retrain.inference.loading import find_source, load_model

    return load_model(find_source(task_or_store, factories), run_id, device)


def run(
    task: Task | str | Path, *, method: Method | None = None, device: str = "auto", progress: bool = False
) -> RunRecord | None:
    """Retrain on the drops that have landed and update the trackers, as `retrain run` does. Return the run's record.

    Returns None if no run is needed, or if the candidate awaits `retrain approve` (`gate.approval: manual`). `progress`
    shows the training's progress on standard error. Raises `UserError` for a mistake in the task or its data, and if
    another process holds the task's lock.
    """
    from retrain.monitoring.observers import make_observers
    from retrain.pipeline import stages
    from retrain.pipeline.context import make_context
    from retrain.pipeline.planning import Request
    from retrain.store.task_store import open_task_store
    from retrain.tracking.hook import update_trackers
    from retrain.training.progress import Observers

    opened = task if isinstance(task, Task) else load_task(str(task))
    observe = partial(make_observers, None, "") if progress else Observers
    store = open_task_store(opened)
    ended = stages.run_locked(make_context(store, opened, device, observe), opened, Request(method=method))
    update_trackers(opened, store)
    return ended if isinstance(ended, RunRecord) else None


def ledger(task_or_store: Task | str | Path) -> list[RunRecord]:
    """Return the records of all ended runs, oldest first."""
    from retrain.inference.loading import find_source

    return find_source(task_or_store).store.ledger.read()


def ledger_frame(task_or_store: Task | str | Path) -> "pandas.DataFrame":
    """Return the ledger as a DataFrame, with a row for each run and a column for each field, such as `savings.net`.

    Needs pandas: pip install 'retrain-classifiers[tables]'.
    """
    from retrain.utils.extras import import_extra

    pandas = import_extra("pandas", "A DataFrame of the ledger")
    return pandas.json_normalize([record.model_dump() for record in ledger(task_or_store)])
