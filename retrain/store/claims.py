"""Record the run to which each drop, and each correction of drops, belongs. Each claim is written once.

The owner of a claim is a run and not a process. Equal plans are equal runs, so any watcher can finish a run that
another watcher began. No watcher needs to know which process has died.
"""

from collections.abc import Iterable
from contextlib import suppress

from retrain.records import Plan, Record
from retrain.store.base import Conflict, Missing, ObjectStore, read_record
from retrain.store.champions import ChampionPointer
from retrain.store.keys import TaskKeys
from retrain.store.ledger import Ledger
from retrain.store.runs import RunFiles
from retrain.utils.parallel import map_ahead

CORRECTION = "_"
"""First character of the names under which amendments and erasures are claimed. No drop's id begins with it."""


class Claim(Record):
    """`claims/<drop-id>.json`. It is created only once. Equal claims have equal bytes."""

    drop: str
    """A drop's id, or the name of a correction."""
    run_id: str


class Claims:
    """The claims of one task. Each claim and each plan is read once."""

    def __init__(self, objects: ObjectStore, keys: TaskKeys) -> None:
        self._objects, self._keys = objects, keys
        self._ledger, self._champion = Ledger(objects, keys), ChampionPointer(objects, keys)
        self._owners: dict[str, str] = {}
        self._ended: set[str] = set()
        self._plans: dict[str, Plan] = {}

    def refresh(self) -> None:
        """Read the new claims, and forget the withdrawn claims."""
        keys = [entry.key for entry in self._objects.list(self._keys.claims)]
        drops = [key.removeprefix(self._keys.claims).removesuffix(".json") for key in keys]
        new = [drop for drop in drops if drop not in self._owners]
        owners = self._owners | dict(zip(new, map_ahead(self._find_owner, new), strict=True))
        self._owners = {drop: owner for drop in drops if (owner := owners[drop])}

    def claimed(self, drop: str) -> bool:
        """Return whether a run has claimed this drop."""
        return drop in self._owners

    def owners(self) -> set[str]:
        """Return the ids of the runs that have claimed drops."""
        return set(self._owners.values())

    def in_flight(self) -> list[Plan]:
        """Return the plans of runs that have claimed drops and have not ended."""
        runs = sorted(set(self._owners.values()) - self._ended)
        plans = [self._plan(run_id) for run_id in runs if not self._has_ended(run_id)]
        return [plan for plan in plans if not self._overtaken(plan)]

    def claim(self, plan: Plan, corrections: Iterable[str] = ()) -> bool:
        """Claim corrections and a plan's new drops for its run. Return whether this succeeded.

        If an unfinished run has claimed one of them, the new claims are withdrawn. A drop that an ended run claimed
        stays with that run, and the other claims still succeed. Every process claims in the order in which the drops
        were committed. If two runs claim the same drops, one of the runs therefore gets all of them. Claims that
        `refresh` found are not read again.
        """
        given: list[str] = []
        for drop in (*sorted(corrections), *(ref.id for ref in plan.dataset.drops[plan.known :])):
            owner = self._owners.get(drop) or self._create(drop, plan.run_id)
            if owner == plan.run_id:
                given.append(drop)
            elif not self._has_ended(owner):
                self._withdraw(plan.run_id, given)
                return False
        return True

    def withdraw(self, plan: Plan) -> None:
        """Delete the claims of this run that `refresh` found."""
        self._withdraw(plan.run_id, [drop for drop, owner in self._owners.items() if owner == plan.run_id])

    def release(self, plan: Plan) -> None:
        """Delete all claims of a run. The next plan can then claim its drops."""
        self.refresh()
        self.withdraw(plan)

    def _create(self, drop: str, run_id: str) -> str:
        """Claim a drop for a run. Return the run that has the claim: this run, or another run that claimed the drop
        first."""
        try:
            self._objects.create(self._keys.claim(drop), Claim(drop=drop, run_id=run_id).to_bytes())
        except Conflict:
            run_id = self._owner(drop)
        self._owners[drop] = run_id
        return run_id

    def _withdraw(self, run_id: str, drops: list[str]) -> None:
        for drop in drops:
            self._objects.delete(self._keys.claim(drop))
        self._owners = {drop: owner for drop, owner in self._owners.items() if owner != run_id}

    def _find_owner(self, drop: str) -> str | None:
        """Return the run that has claimed a drop. Return None if the claim has just been withdrawn."""
        with suppress(Missing):
            return self._owner(drop)
        return None

    def _owner(self, drop: str) -> str:
        return read_record(self._objects, self._keys.claim(drop), Claim)[0].run_id

    def _plan(self, run_id: str) -> Plan:
        if run_id not in self._plans:
            self._plans[run_id] = RunFiles(self._objects, self._keys, run_id).plan()
        return self._plans[run_id]

    def _has_ended(self, run_id: str) -> bool:
        if run_id not in self._ended and self._ledger.final(run_id):
            self._ended.add(run_id)
        return run_id in self._ended

    def _overtaken(self, plan: Plan) -> bool:
        """Return whether the champion was already trained on all drops of this plan.

        This happens after a person has started a run by hand.
        """
        champion = self._champion.read().run_id
        if champion is None or not self._has_ended(champion):
            return False
        known = self._plan(champion).dataset.drops
        if plan.known == len(plan.dataset.drops):  # only corrections: a scratch run must still replace the champion
            return plan.method != "scratch" and set(known).issuperset(plan.dataset.drops)
        return {drop.id for drop in known}.issuperset(drop.id for drop in plan.dataset.drops)
