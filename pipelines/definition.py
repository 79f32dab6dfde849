"""The pipeline of a task: plan -> train -> evaluate -> promote -> record, and a last step that runs even after errors.

No step is cached. The first step gets the submission's id. The other steps get the run's id, which contains the digest
of the plan. The task is a parameter of the type STRUCT: Kubeflow's page shows and checks it as JSON. The other
parameters are strings.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.compiler import Compiler
from kfp.dsl.graph_component import GraphComponent

from retrain.config.task import Task
from retrain.kubeflow.parameter import require_storable, write_parameter
from retrain.kubeflow.pods import configure_pod

from . import components

ConfigurePod = Callable[[dsl.PipelineTask, str], None]
"""Function that configures the pod of a step, given the step's name."""


def build(task: Task) -> GraphComponent:
    """Return a task's pipeline for a cluster, to be compiled or submitted. The task is its default argument.

    Raises `TaskError` if the task asks for several nodes, or if Kubeflow cannot store one of its strings.
    """
    task.resources.require_one_node()
    require_storable(task)
    return define(task, task.resources.image, lambda step, name: configure_pod(step, name, task.resources))


def compile_pipeline(task: Task, output: Path) -> None:
    """Write a task's pipeline as YAML. Raises the errors of `build`."""
    Compiler().compile(build(task), str(output))


def step_factory(image: str, configure: ConfigurePod) -> Callable[..., dsl.PipelineTask]:
    """Return a function that makes a step from a component and its inputs.

    The step runs in this image. It is never cached, and `configure` configures its pod.
    """

    def step(function: Callable[..., Any], **inputs: Any) -> dsl.PipelineTask:
        component = dsl.component(function, base_image=image, install_kfp_package=False)
        called = component(**inputs).set_caching_options(False)
        configure(called, function.__name__)
        return called

    return step


def steps_after_planning(task: Task, outputs: bool = True) -> tuple[str, ...]:
    """Return the names of the components after planning.

    There is one component for all stages, unless `resources.separate_evaluation` is set. With `outputs`, the last
    component writes the outputs for Kubeflow's UI.
    """
    if task.resources.separate_evaluation:
        return ("train_only", "evaluate", "promote", "record" if outputs else "record_only")
    return ("train" if outputs else "train_only",)


def define_locally(task: Task, image: str, configure: ConfigurePod) -> GraphComponent:
    """Return the pipeline for one machine. It writes no outputs for a UI, because drawing the report takes seconds."""
    return define(task, image, configure, outputs=False)


def define(task: Task, image: str, configure: ConfigurePod, outputs: bool = True) -> GraphComponent:
    """Return the pipeline. Its steps run in an image, and `configure` configures their pods."""
    step = step_factory(image, configure)
    default = write_parameter(task)
    functions = [getattr(components, name) for name in steps_after_planning(task, outputs)]

    def pipeline(
        task: dict[str, Any] = default,
        method: str = "",
        purpose: str = "retrain",
        device: str = "auto",
        submission: str = "",
    ) -> None:
        ids = {"submission": submission, "job": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        with dsl.ExitHandler(step(components.finish, task=task, **ids), name="retraining"):
            run = step(components.plan, task=task, method=method, purpose=purpose, **ids)
            with dsl.If(run.output != "", name="there-is-a-run"):
                for function in functions:
                    run = step(function, task=task, run_id=run.outputs["Output"], device=device)

    return dsl.pipeline(name=f"retrain-{task.name}", description=f"Retrains {task.name}.")(pipeline)
