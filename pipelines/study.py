"""A study as one Kubeflow run: a ParallelFor over the runs on one drop, then over the runs on two drops, and so on."""

from collections.abc import Sequence

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from retrain.config.task import Task
from retrain.kubeflow.client import DEVICE, submit
from retrain.kubeflow.pods import configure_pod
from retrain.kubeflow.records import Submitted
from retrain.records import Plan, digest
from retrain.utils.text import pluralize

from . import components
from .definition import ConfigurePod, step_factory

Levels = Sequence[Sequence[Plan]]
"""Plans by the number of drops that they train on. A run may continue from a run of the previous level."""


def _for_step(task: Task) -> str:
    """Return the part of a task that a step needs to open the store and to build the network, as JSON.

    The plan in the store has the other parts. Kubernetes stores the arguments of all steps in one object of at most 1.5
    MB, so it must be short.
    """
    shared = {"name": True, "store": True, "endpoint_url": True, "factories": True}
    return task.model_dump_json(include={**shared, "model": {"name"}})


def submit_study(name: str, task: Task, levels: Levels) -> Submitted:
    """Submit the runs of a study, with the pod settings and the Kubeflow server of a task.

    The plans must already be in the store. The same runs are submitted only once. Raises `SubmitError`.
    """
    run_name = f"study-{name}-{digest([[plan.run_id for plan in level] for level in levels])[:8]}"
    pipeline = define_study(
        name, levels, task.resources.image, lambda step, kind: configure_pod(step, kind, task.resources)
    )
    return submit(task, run_name, pipeline, {"device": DEVICE})


def define_study(name: str, levels: Levels, image: str, configure: ConfigurePod) -> GraphComponent:
    """Return the pipeline of a study's runs. `configure` configures their pods."""
    parts = [_level(number, level, image, configure) for number, level in enumerate(levels, 1)]

    def pipeline(device: str = "auto") -> None:
        before = None
        for part in parts:
            done = part(device=device)
            before = done.after(before) if before else done

    return dsl.pipeline(name=f"study-{name}", description=f"The runs of the study {name}.")(pipeline)


def _level(number: int, plans: Sequence[Plan], image: str, configure: ConfigurePod) -> GraphComponent:
    step = step_factory(image, configure)
    trials = [{"text": _for_step(plan.task), "run_id": plan.run_id} for plan in plans]

    def level(device: str) -> None:
        with dsl.ParallelFor(trials) as trial:
            step(components.trial, task=trial.text, run_id=trial.run_id, device=device)

    return dsl.pipeline(name=f"drops-{number}", description=f"All runs on {pluralize(number, 'drop')}.")(level)
