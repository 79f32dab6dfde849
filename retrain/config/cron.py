"""Cron expressions of five fields, in UTC: the schedule of a task."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Annotated

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, WithJsonSchema

FIELDS = 5


def _check_cron(cron: str) -> str:
    try:
        if len(cron.split()) != FIELDS:
            raise CronSimError(f"{len(cron.split())} fields")
        CronSim(cron, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(f"should be five cron fields such as '0 2 * * *' ({error})") from error
    return cron


def _pattern() -> str:
    """Return the pattern for the JSON schema: fields and their values. It also accepts ranges that run backwards."""
    months = _any_case("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC")
    days = f"[0-7]|{_any_case('SUN MON TUE WED THU FRI SAT')}"
    values = ("[0-5]?[0-9]", "1?[0-9]|2[0-3]", "0?[1-9]|[12][0-9]|3[01]", f"0?[1-9]|1[0-2]|{months}", days)
    special = ("", "", "|[Ll][Ww]?", "", f"|({days})#[1-5]|[0-7][Ll]")
    terms = [
        rf"((\*|({value})(-({value}))?)(/[1-9][0-9]?)?{more})" for value, more in zip(values, special, strict=True)
    ]
    return "^" + " ".join(f"{term}(,{term})*" for term in terms) + "$"


def _any_case(words: str) -> str:
    return "|".join("".join(f"[{letter}{letter.lower()}]" for letter in word) for word in words.split())


Cron = Annotated[str, AfterValidator(_check_cron), WithJsonSchema({"type": "string", "pattern": _pattern()})]
"""Minute, hour, day of the month, month, day of the week, in UTC."""


def last_scheduled(cron: str, now: datetime) -> datetime:
    """Return the newest scheduled time that is not after `now`."""
    return next(CronSim(cron, now.astimezone(UTC) + timedelta(microseconds=1), reverse=True))


def longest_gap(cron: str) -> timedelta:
    """Return the longest time between two consecutive scheduled times, among the first 100 from the year 2000 on."""
    scheduled = list(islice(CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)), 100))
    return max(later - earlier for earlier, later in pairwise(scheduled))
