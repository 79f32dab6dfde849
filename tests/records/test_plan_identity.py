"""Settings of later versions do not change a run's id unless they are set."""

import json
from typing import Annotated

import pytest
from support.trainings import TASK, plan_of
from support.versions import with_later_fields

from retrain.config.fields import ConfigModel, IdentityIfSet, NotIdentity, identity
from retrain.config.loading import parse_task
from retrain.config.task import Task
from retrain.records import ModelInput, Plan, parse_record
from retrain.records.base import unknown_fields
from retrain.records.plan import check_known

KNOWN = {
    "name: pets": "scratch-c2e253ce9770",
    "name: pets\ntraining: {optimizer: {name: sgd}}": "scratch-c656be970c0b",
    "name: pets\nmodel: {name: mobilenet_v3_small, stem: standard}\nrecipe: {preset: paper}": "scratch-b3cf2d14b734",
}
"""Run ids that commit b3a29da gave to plans of these tasks."""


class Part(ConfigModel):
    """A model with a field of each kind."""

    first: int = 1
    later: Annotated[int, IdentityIfSet] = 2
    never: Annotated[int, NotIdentity] = 3


@pytest.mark.parametrize("text", KNOWN)
def test_runs_of_earlier_versions_keep_their_ids(text: str) -> None:
    assert plan_of(parse_task(text, "task")).run_id == KNOWN[text]


def test_later_field_is_part_of_the_id_only_if_set() -> None:
    assert identity(Part()) == identity(Part(later=2, never=5)) == {"first": 1}
    assert identity(Part(later=4)) == {"first": 1, "later": 4}


def test_unknown_fields_without_effect_keep_the_id() -> None:
    """A later version adds a field to every setting, including settings that are part of the id only if set."""
    plan = plan_of(Task.model_validate({**TASK.model_dump(), "data": {"augmentation": {"mixup": 0.2}}}))
    for written in (plan_of(), plan):
        data = json.dumps(with_later_fields(json.loads(written.to_bytes()))).encode()
        read = parse_record(Plan, data, "plan.json")
        assert "task.data.augmentation.of_a_later_version" in set(unknown_fields(read))
        check_known(read)
        assert read.model_copy().run_id == written.run_id


def test_model_input_comes_from_the_plan() -> None:
    task = Task.model_validate({**TASK.model_dump(), "data": {"image_size": 16, "mean": (0.1, 0.2, 0.3)}})
    found = ModelInput.of(plan_of(task, classes=3))
    assert found.shape == (3, 16, 16)
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.25, 0.25, 0.25))
    assert found.classes == ("class-0", "class-1", "class-2")
