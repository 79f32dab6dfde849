"""What tables say of runs, where it is easily said wrongly."""

from rich.console import Console
from support import known_ledger

from retrain.cli.formatting import record_details
from retrain.records import RunRecord


def shown(record: RunRecord) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(record_details(record))
    return capture.get()


def test_a_part_of_the_data_that_is_all_wrong_is_shown_as_such() -> None:
    record = known_ledger.pets()[0]
    assert record.evaluation
    lost = record.evaluation.model_copy(update={"accuracy": 0.5, "old": 0.8, "new": 0.0})
    assert "50.00% (old 80.00%, new 0.00%)" in shown(record.model_copy(update={"evaluation": lost}))


def test_what_a_later_attempt_saved_is_not_told_as_if_it_had_been_the_only_one() -> None:
    alone, second = known_ledger.pets()[0], known_ledger.pets()[3]
    assert "attempts before it are in `retrain status`" in shown(second)
    assert "attempts before it" not in shown(alone)
