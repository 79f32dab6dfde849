"""A study as one Kubeflow run: for each number of drops a ParallelFor over all runs on so many, one after the other."""

from collections.abc import Sequence

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from pipelines import components
from pipelines.cluster import DEVICE, submit
from pipelines.definition import Dress, stepper
from pipelines.jobs import Submitted
from pipelines.pods import dress
from retrain.config import Task
from retrain.records import Plan, digest

Levels = Sequence[Sequence[Plan]]
"""Plans by the number of drops that they train on: each may continue from one of the level before."""


def submit_study(name: str, task: Task, levels: Levels) -> Submitted:
    """Submit the runs of a study, whose plans are in the store, with the pods and to the server of a task.

    The same runs are submitted once. Raises `SubmitError`.
    """
    run_name = f"study-{name}-{digest([[plan.run_id for plan in level] for level in levels])[:8]}"
    pipeline = define(name, levels, task.resources.image, lambda step, kind: dress(step, kind, task.resources))
    return submit(task, run_name, pipeline, {"device": DEVICE})


def define(name: str, levels: Levels, image: str, dress: Dress) -> GraphComponent:
    """Return the pipeline of a study's runs, each dressed for where it runs."""
    parts = [_level(number, level, image, dress) for number, level in enumerate(levels, 1)]

    def pipeline(device: str = "auto") -> None:
        before = None
        for part in parts:
            done = part(device=device)
            before = done.after(before) if before else done

    return dsl.pipeline(name=f"study-{name}", description=f"The runs of the study {name}.")(pipeline)


def _level(number: int, plans: Sequence[Plan], image: str, dress: Dress) -> GraphComponent:
    step = stepper(image, dress)
    trials = [{"text": plan.task.model_dump_json(), "run_id": plan.run_id} for plan in plans]

    def level(device: str) -> None:
        with dsl.ParallelFor(trials) as trial:
            step(components.trial, task=trial.text, run_id=trial.run_id, device=device)

    return dsl.pipeline(name=f"drops-{number}", description=f"All runs on {number} drops.")(level)
