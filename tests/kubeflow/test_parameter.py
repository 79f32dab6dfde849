"""The task as a pipeline parameter of type STRUCT: a step reads the task that was submitted."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kfp.compiler.pipeline_spec_builder import to_protobuf_value
from retrain.pipelines.definition import compile_pipeline
from support.trainings import plan_of

from retrain.config.loading import parse_task
from retrain.config.resources import Resources, Toleration
from retrain.config.task import Data, Model, Task, Training
from retrain.config.template import task_template
from retrain.errors import TaskError
from retrain.kubeflow.parameter import read_parameter, restore_integers, write_parameter

ROOT = Path(__file__).parents[2]
MOUNTED = yaml.safe_load((ROOT / "k8s/retrain/tasks-configmap.yaml").read_text())["data"]
TASK_FILES = {path.name: path.read_text() for path in (ROOT / "tasks").glob("*.yaml")} | MOUNTED
"""The text of every task file in this repository."""

Document = dict[str, Any]


def through_kfp(document: Document) -> Document:
    """Return what kfp gives to a step on one machine: every number is a float."""
    passed: Document = json_format.MessageToDict(to_protobuf_value(document))
    return passed


def through_launcher(document: Document) -> Document:
    """Return what Kubeflow's launcher gives to a step: a whole number has no fraction, and the keys are sorted.

    Go's protojson writes numbers in this way, up to 1e21.
    """

    def shorten(number: str) -> float | int:
        value = float(number)
        return int(value) if value.is_integer() and abs(value) < 1e21 else value

    text = json.dumps(through_kfp(document), sort_keys=True)
    passed: Document = json.loads(text, parse_float=shorten)
    return passed


PASSED = [through_kfp, through_launcher]


@pytest.mark.parametrize("passed", PASSED)
@pytest.mark.parametrize("name", TASK_FILES)
def test_each_task_file_is_unchanged_as_a_struct(name: str, passed: Callable[[Document], Document]) -> None:
    task = parse_task(TASK_FILES[name], name)
    read = read_parameter(passed(write_parameter(task)))
    assert read.model_dump_json() == task.model_dump_json()
    assert plan_of(read).run_id == plan_of(task).run_id


scalars = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=8)
leaves = scalars | words
PLACES = [
    (part, field)
    for part, fields in yaml.safe_load(task_template("pets")).items()
    if isinstance(fields, dict)
    for field in fields
]
values = leaves | st.lists(leaves, max_size=3) | st.dictionaries(words, leaves, max_size=3)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.dictionaries(words, leaves, max_size=4),
    st.dictionaries(st.sampled_from(PLACES), values, max_size=2),
    st.sampled_from(PASSED),
)
def test_any_task_is_unchanged_as_a_struct_or_is_refused(
    options: Document, fields: dict[tuple[str, str], object], passed: Callable[[Document], Document]
) -> None:
    document: Document = {"name": "pets", "model": {"options": options}}
    for (part, field), value in fields.items():
        document.setdefault(part, {})[field] = value
    try:
        task = Task.model_validate(document)
    except ValueError:
        assume(False)
    try:
        parameter = write_parameter(task)
    except TaskError:
        assert has_lossy_number(task)
        return
    read = read_parameter(passed(parameter))
    assert json.loads(read.model_dump_json()) == json.loads(task.model_dump_json())
    assert plan_of(read).run_id == plan_of(task).run_id


def numbers_of(value: object) -> Iterator[float]:
    """Yield the numbers in JSON, at any depth."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from numbers_of(item)
    if isinstance(value, int | float):
        yield value


def has_lossy_number(task: Task) -> bool:
    """Return whether a STRUCT changes a number: a whole float among options, an integer beyond 2^53, or -0.0."""
    options = any(isinstance(value, float) and value.is_integer() for value in task.model.options.values())
    numbers = numbers_of(task.model_dump(mode="json"))
    return options or any(abs(number) > 2**53 or repr(number) == "-0.0" for number in numbers)


def test_integers_are_restored_at_any_depth() -> None:
    assert repr(restore_integers({"a": [1.0, [2.5, {"b": -3.0}]], "c": True, "d": None, "e": "4.0"})) == repr(
        {"a": [1, [2.5, {"b": -3}]], "c": True, "d": None, "e": "4.0"}
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.0}, "model.options.rate: 1.0 would arrive as 1 in the pipeline's steps"),
        ({"seed": 2**53 + 1}, f"model.options.seed: {2**53 + 1} would arrive as {2**53} in the pipeline's steps"),
        ({"huge": 10**400}, "model.options.huge: must be"),
    ],
    ids=["whole float", "large integer", "huge integer"],
)
def test_option_that_a_struct_changes_is_refused(options: dict[str, float], message: str, tmp_path: Path) -> None:
    task = Task(name="pets", model=Model(name="mlp", options=options))
    with pytest.raises(TaskError) as refused:
        compile_pipeline(task, tmp_path / "pets.yaml")
    assert message in str(refused.value)
    assert not (tmp_path / "pets.yaml").exists()


def test_text_that_kubeflow_cannot_store_is_refused(tmp_path: Path) -> None:
    """The real server replies with an error, but still creates the run's workflow (docs/evidence/kubeflow.md)."""
    output = tmp_path / "pets.yaml"
    tolerations = (Toleration(key="gpu", value="x🙂"),)
    task = Task(name="pets", data=Data(aliases={"🙂": "cat"}), resources=Resources(tolerations=tolerations))
    with pytest.raises(TaskError) as refused:
        compile_pipeline(task, output)
    cause = "Kubeflow's database cannot store '🙂'. Use characters up to U+FFFF"
    assert str(refused.value) == (f"pets: data.aliases.🙂: {cause}\npets: resources.tolerations.0.value: {cause}")
    assert not output.exists()
    compile_pipeline(Task(name="pets", data=Data(aliases={"日本語 é \uffff": "cat"})), output)
    assert output.exists()


def test_options_keep_their_types_and_floats_stay_floats() -> None:
    options = {"width": 16, "rate": 0.5, "bias": True, "norm": "16", "wide": 2**53}
    task = Task(name="pets", model=Model(options=options), training=Training(epochs=3, class_weights={"cat": 2}))
    read = read_parameter(through_kfp(write_parameter(task)))
    assert {name: repr(value) for name, value in read.model.options.items()} == {
        name: repr(value) for name, value in options.items()
    }
    assert repr((read.training.epochs, read.training.class_weights)) == "(3.0, {'cat': 2.0})"


def test_null_and_json_text_are_accepted_as_parameters() -> None:
    """Kubeflow's page may send null. Pipelines of version 0.1 send a text, even to the steps of a newer image."""
    task = Task(name="pets", model=Model(options={"width": 16}))
    assert read_parameter(through_kfp(write_parameter(task)) | {"schedule": None}) == task
    assert read_parameter(task.model_dump_json()) == task
    with pytest.raises(TaskError, match=r"the pipeline's parameter task: training\.batch_size: must be"):
        read_parameter({"name": "pets", "training": {"batch_size": 0.0}})
