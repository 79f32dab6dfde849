"""Find the model of a run, or of the champion, and make it ready to predict."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from retrain.config.loading import load_task, task_names
from retrain.config.task import Task
from retrain.errors import RunError, UserError
from retrain.inference.model import Model
from retrain.inference.preprocess import Preprocess
from retrain.pipeline.context import pick_device
from retrain.pipeline.evaluate import load_network
from retrain.store import open_store
from retrain.store.task_store import TaskStore, open_task_store


class Source(NamedTuple):
    """Source of models: a task's store, and the factories whose code may be run to build their networks."""

    store: TaskStore
    factories: Collection[str] = ()


def find_source(task_or_store: Task | str | Path, factories: Collection[str] = ()) -> Source:
    """Return the source for a task, its name, its file, or its folder in a store (`s3://bucket/prefix/birds`).

    A store does not state which code may be run, so `factories` lists it (`package.module:factory`). Raises `UserError`
    if there is no such task or folder.
    """
    if isinstance(task_or_store, Task):
        return _source_of_task(task_or_store, factories)
    text = str(task_or_store)
    if "://" not in text and (text in task_names() or not Path(text).is_dir()):
        return _source_of_task(load_task(text), factories)
    address, _, name = text.rstrip("/").rpartition("/")
    source = Source(TaskStore(open_store(address or "."), name), factories)
    if not {"drops", "runs"} & set(source.store.objects.folders(f"{name}/")):
        raise UserError(f"{text}: not a task's folder in a store: it has neither drops/ nor runs/. Expected STORE/TASK")
    return source


def _source_of_task(task: Task, factories: Collection[str]) -> Source:
    return Source(open_task_store(task), task.allowed_factories.union(factories))


def champion_of(store: TaskStore) -> str:
    """Return the id of the champion's run. Raises `RunError` if there is none."""
    if (run_id := store.champion.read().run_id) is None:
        raise RunError(f"task {store.task} has no champion yet in {store.url}: train one with `retrain run`")
    return run_id


def new_classes(store: TaskStore, run_id: str) -> set[str]:
    """Return the classes of a run's model that the previous champion did not have. Empty if the run was not tested."""
    errors = store.run(run_id).errors()
    return {figures.name for figures in errors.classes if figures.is_new} if errors else set()


def load_model(source: Source, run_id: str | None = None, device: str = "auto") -> Model:
    """Load a run's model, or the champion's, in evaluation mode. Raises `RunError` or `ModelError` if this fails."""
    files = source.store.run(champion_of(source.store) if run_id is None else run_id)
    plan, chosen = files.plan(), pick_device(device)
    result = files.result()
    if result is None or result.model_digest is None:
        ending = result.outcome if result else "has not ended"
        raise RunError(f"{plan.run_id} {ending}: it has no model; `retrain history` lists the other runs")
    network = load_network(files, plan, source.factories, chosen).eval()
    return Model(plan, network, chosen, Preprocess(plan.task.data))
