"""Random sequences of operations on objects, champions and claims have the same effect as on a model in memory."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from support.clouds import cloud_store
from support.trainings import plan_of

from retrain.pipeline.accounting import make_record
from retrain.records import DropRef, Plan
from retrain.store import Conflict, Entry, LocalStore, Missing, ObjectStore, champions, open_store
from retrain.store.claims import Claim
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore

PETS = TaskKeys("pets")
KEYS = st.sampled_from(["k/a", "k/b"])
BYTES = st.sampled_from([b"1", b"2", b"three"])


def plan_on(drops: tuple[str, ...]) -> Plan:
    """Return the plan of a scratch run on drops with these ids."""
    plan = plan_of(sizes=[16] * len(drops))
    named = tuple(DropRef(id=drop, digest=drop, samples=16) for drop in drops)
    return plan.model_copy(update={"dataset": plan.dataset.model_copy(update={"drops": named})})


PLANS = [plan_on(drops) for drops in (("a",), ("a", "b"), ("a", "b", "c"))]
"""Plans of runs whose drops overlap."""


class StoreMachine(RuleBasedStateMachine):
    """Clients of a store. A client may act on a value that has changed since it was read."""

    store: ObjectStore
    versions: Bundle[tuple[str, str]] = Bundle("versions")
    snapshots: Bundle[champions.ChampionSnapshot] = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.version_of: dict[str, str] = {}
        self.history: list[str] = []
        self.owners: dict[str, str] = {}
        self.ended: set[str] = set()
        for plan in PLANS:
            TaskStore(self.store, "pets").run(plan.run_id).write_plan(plan)
        self.claims = [TaskStore(self.store, "pets").claims() for _ in range(2)]

    @rule(target=versions, key=KEYS)
    def read(self, key: str) -> tuple[str, str]:
        """Read an object. Its bytes must be the bytes that were written last."""
        if key not in self.objects:
            with pytest.raises(Missing):
                self.store.read(key)
            return key, "0" * 32
        data, version = self.store.read(key)
        assert data == self.objects[key]
        assert self.version_of.setdefault(key, version) == version
        return key, version

    @rule(key=KEYS, data=BYTES)
    def create(self, key: str, data: bytes) -> None:
        """Create an object. It is a conflict if the object exists with other bytes."""
        if self.objects.get(key, data) != data:
            with pytest.raises(Conflict):
                self.store.create(key, data)
        else:
            self.version_of[key] = self.store.create(key, data)
            self.objects[key] = data

    @rule(seen=versions, data=BYTES)
    def replace(self, seen: tuple[str, str], data: bytes) -> None:
        """Replace an object. Only a process that has read its current version can do so."""
        key, version = seen
        if key not in self.objects:
            with pytest.raises(Missing):
                self.store.replace(key, data, version)
        elif self.store.read(key)[1] != version and self.objects[key] != data:
            with pytest.raises(Conflict):
                self.store.replace(key, data, version)
        else:
            self.version_of[key] = self.store.replace(key, data, version)
            self.objects[key] = data

    @rule(key=KEYS, data=BYTES)
    def write(self, key: str, data: bytes) -> None:
        """Write an object, whatever its version is."""
        self.store.write(key, data)
        self.objects[key] = data
        self.version_of.pop(key, None)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        """Remove an object."""
        self.store.delete(key)
        self.objects.pop(key, None)
        self.version_of.pop(key, None)

    @rule(target=snapshots)
    def read_champion(self) -> champions.ChampionSnapshot:
        """Read the champion. It must be the last entry of the history."""
        seen = TaskStore(self.store, "pets").champion.read()
        assert seen.run_id == (self.history[-1] if self.history else None)
        return seen

    @rule(seen=snapshots, run=st.sampled_from("xyz"))
    def promote(self, seen: champions.ChampionSnapshot, run: str) -> None:
        """Promote a run. It is a conflict if the champion has changed since it was read."""
        if len(seen.champion.history if seen.champion else ()) == len(self.history):
            TaskStore(self.store, "pets").champion.swap(seen, run, "promoted")
            self.history.append(run)
        else:
            with pytest.raises(Conflict):
                TaskStore(self.store, "pets").champion.swap(seen, run, "promoted")

    @rule(client=st.sampled_from([0, 1]))
    def refresh(self, client: int) -> None:
        """Read the claims again, as a watcher does."""
        self.claims[client].refresh()

    @rule(client=st.sampled_from([0, 1]), plan=st.sampled_from(PLANS))
    def claim(self, client: int, plan: Plan) -> None:
        """Claim all drops of a run, or none. A drop of an ended run keeps its owner."""
        self.claims[client].refresh()
        wanted = [drop.id for drop in plan.dataset.drops]
        free = all(self.owners.get(drop, plan.run_id) in {plan.run_id, *self.ended} for drop in wanted)
        assert self.claims[client].claim(plan) == free
        if free:
            self.owners = dict.fromkeys(wanted, plan.run_id) | self.owners
        else:
            self.owners = {drop: owner for drop, owner in self.owners.items() if owner != plan.run_id}

    @rule(plan=st.sampled_from(PLANS))
    def end(self, plan: Plan) -> None:
        """End a run. Recording the end again changes nothing."""
        first = TaskStore(self.store, "pets").ledger.find(plan.run_id)
        entry = TaskStore(self.store, "pets").ledger.write(make_record(plan, None, None, None, "ended by the test"))
        assert first in (None, entry)
        self.ended.add(plan.run_id)

    @invariant()
    def history_has_each_promotion_once(self) -> None:
        """No promotion is missing, repeated or reordered."""
        champion = TaskStore(self.store, "pets").champion.read().champion
        entries = champion.history if champion else ()
        assert [(entry.sequence, entry.run_id) for entry in entries] == list(enumerate(self.history, 1))

    @invariant()
    def claims_match_the_model(self) -> None:
        """The store has all claims of the model, and no others."""
        found = [self.store.read(entry.key)[0] for entry in self.store.list(PETS.claims)]
        assert {claim.drop: claim.run_id for claim in map(Claim.model_validate_json, found)} == self.owners

    @invariant()
    def the_listing_is_complete(self) -> None:
        """The listing has every object with its size, and nothing else."""
        assert list(self.store.list("k/")) == [Entry(key, len(data)) for key, data in sorted(self.objects.items())]


def check(open_empty: Callable[[str], ObjectStore], examples: int) -> None:
    """Run this number of sequences, each in an empty store."""

    class Opened(StoreMachine):
        def __init__(self) -> None:
            self.store = open_empty(uuid4().hex)
            super().__init__()

    chosen = settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Opened, settings=chosen)


def test_folder_matches_a_model_after_any_operations(tmp_path: Path) -> None:
    check(lambda name: LocalStore(tmp_path / name), examples=60)


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_cloud_matches_a_model_after_any_operations(scheme: str, request: pytest.FixtureRequest) -> None:
    url, server = cloud_store(scheme, request)
    check(lambda name: open_store(f"{url}/{name}", server), examples=5)


def test_s3_matches_a_model_after_any_operations(s3: str, bucket: str) -> None:
    check(lambda name: open_store(f"s3://{bucket}/{name}", s3), examples=8)
