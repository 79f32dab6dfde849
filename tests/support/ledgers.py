"""Make ledgers of any size with records of realistic length, for one drop a day."""

from itertools import pairwise
from random import Random

from retrain.records import Champion, Comparison, Evaluation, Interval, Promotion, RunRecord
from support import known_ledger

SCRATCH = 40_000
"""Iterations that training from scratch takes."""


def ledger_of(runs: int) -> list[RunRecord]:
    """Return the records of this number of runs, oldest first: one scratch run, then continuous runs.

    A few runs miss their target.
    """
    random = Random(0)
    records = [known_ledger.run(0, SCRATCH, SCRATCH, "completed", method="scratch", promoted=True)]
    for number in range(1, runs):
        aim = known_ledger.target(0.7, SCRATCH, age=number)
        if random.random() < 0.05:
            records.append(known_ledger.run(number, 20_000, 0, "missed", aim=aim))
        else:
            used = random.randrange(4_000, 18_000)
            records.append(known_ledger.run(number, used, SCRATCH, "reached", aim=aim, promoted=True))
    named = [record.model_copy(update={"run_id": f"{record.method}-{k:012x}"}) for k, record in enumerate(records)]
    return [named[0], *(_with_all_fields(record, parent.run_id) for parent, record in pairwise(named))]


def _with_all_fields(record: RunRecord, parent: str) -> RunRecord:
    """Add fields until a record is as long as a real one."""
    comparison = Comparison(
        champion=parent,
        champion_accuracy=0.7,
        difference=Interval(value=0.004, low=-0.003, high=0.011),
        negative_flips=0.02,
    )
    evaluation = Evaluation(samples=10_000, accuracy=0.704, old=0.71, new=0.65, by_class={}, comparison=comparison)
    return record.model_copy(
        update={
            "parent": parent,
            "dataset_digest": f"{parent:0>64}",
            "drops": tuple(f"d-{number:012x}" for number in range(200)),
            "new_drops": (f"d-{parent[-12:]}",),
            "evaluation": evaluation if record.evaluation else None,
        }
    )


def champion_of(records: list[RunRecord]) -> Champion:
    """Return the champion after these runs. Its history has every run that passed the gate, in order."""
    promoted = [record for record in records if record.decision and record.decision.promoted]
    return Champion(
        history=tuple(
            Promotion(sequence=sequence, run_id=record.run_id, why="promoted", at=record.ended_at)
            for sequence, record in enumerate(promoted, 1)
        )
    )
