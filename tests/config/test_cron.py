"""Schedules: five fields of cron, in UTC."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from retrain.config.cron import last_scheduled
from retrain.config.loading import parse_task
from retrain.config.task import Task
from retrain.errors import TaskError

TWO = datetime(2026, 11, 21, 2, tzinfo=UTC)


def test_newest_scheduled_time_may_be_now() -> None:
    assert last_scheduled("0 2 * * *", TWO) == TWO
    assert last_scheduled("0 2 * * *", TWO + timedelta(hours=5)) == TWO
    assert last_scheduled("0 2 * * *", TWO - timedelta(microseconds=1)) == TWO - timedelta(days=1)


def test_times_are_in_utc_wherever_the_machine_is() -> None:
    elsewhere = TWO.astimezone(timezone(timedelta(hours=-8)))
    assert last_scheduled("0 2 * * *", elsewhere) == TWO


def test_tasks_schedule_is_cron() -> None:
    assert Task(name="pets", schedule="*/15 * * * 1-5").schedule == "*/15 * * * 1-5"


@pytest.mark.parametrize("cron", ["0 0 2 * * *", "0 2 * *", "60 2 * * *", "daily", ""])
def test_schedule_that_is_not_cron_is_refused_with_an_example(cron: str) -> None:
    with pytest.raises(TaskError, match=r"pets\.yaml: schedule: must be five cron fields such as '0 2 \* \* \*'"):
        parse_task(f"{{name: pets, schedule: '{cron}'}}", "pets.yaml")
