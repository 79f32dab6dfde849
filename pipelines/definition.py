"""The pipeline of a task: plan -> train -> evaluate -> promote -> record, and a last step that runs however they end.

Nothing is ever reused: caching is off in every step, the first is called with the id of the very submission, and the
others with the run's id, which is the digest of its whole plan (task, dataset and all).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler, dsl
from kfp.dsl.graph_component import GraphComponent

from pipelines import components
from pipelines.pods import dress
from retrain.config import Task
from retrain.planning import Request

Dress = Callable[[dsl.PipelineTask, str], None]
"""Gives a step its pod, by the step's name."""


def build(task: Task) -> GraphComponent:
    """Return a task's pipeline for a cluster, ready to be compiled or submitted; the task is its default argument.

    Raises `TaskError` if the task asks for several nodes.
    """
    task.resources.require_one_node()
    return define(task, task.resources.image, lambda step, name: dress(step, name, task.resources))


def compile_to(path: Path, pipeline: GraphComponent) -> None:
    """Write a pipeline as YAML."""
    compiler.Compiler().compile(pipeline, str(path))


def arguments(task: Task, request: Request, device: str, submission: str) -> dict[str, Any]:
    """Return the pipeline's arguments. `submission` is a new id by which its outcome is found again."""
    return {
        "task": task.model_dump_json(),
        "method": request.method or "",
        "purpose": request.purpose,
        "device": device,
        "submission": submission,
    }


def stepper(image: str, dress: Dress) -> Callable[..., dsl.PipelineTask]:
    """Return what makes a step of a function and its inputs: in an image, never reused, dressed for where it runs."""

    def step(function: Callable[..., Any], **inputs: Any) -> dsl.PipelineTask:
        component = dsl.component(function, base_image=image, install_kfp_package=False)
        called = component(**inputs).set_caching_options(False)
        dress(called, function.__name__)
        return called

    return step


def define(task: Task, image: str, dress: Dress) -> GraphComponent:
    """Return the pipeline with its steps in an image, each dressed for where it runs."""
    step = stepper(image, dress)
    default = task.model_dump_json()

    def pipeline(
        task: str = default, method: str = "", purpose: str = "retrain", device: str = "auto", submission: str = ""
    ) -> None:
        ids = {"submission": submission, "job": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        with dsl.ExitHandler(step(components.finish, task=task, **ids), name="retraining"):
            run = step(components.plan, task=task, method=method, purpose=purpose, **ids)
            with dsl.If(run.output != "", name="there-is-a-run"):
                for function in (components.train, components.evaluate, components.promote, components.record):
                    run = step(function, task=task, run_id=run.output, device=device)

    return dsl.pipeline(name=f"retrain-{task.name}", description=f"Retrains {task.name}.")(pipeline)
