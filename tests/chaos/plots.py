"""The plots of lives: two drops land and are retrained on under different faults."""

from collections.abc import Callable, Mapping

from support.watching import notification, notified_queue, send
from support.writes import Strike

from chaos import acts
from chaos.acts import LEASE_SECONDS
from chaos.audit import Digests, Expected, digests
from chaos.place import DROPS, KEYS, SEEDS
from chaos.players import CONTEXT, Cast
from chaos.s3 import objects
from retrain.pipeline import next_run
from retrain.pipeline.planning import Request
from retrain.records import Plan
from retrain.store import ObjectStore
from retrain.store.task_store import TaskStore

EARLY = 10
"""A watcher is killed or frozen at one of its first writes: claims, a plan, the first states."""


class Reference:
    """The plans and results of undisturbed runs, which are the same in every store."""

    def __init__(self, cast: Cast) -> None:
        store, task = cast.store(), cast.place.task
        cast.see_through(acts.land, DROPS[0])
        cast.see_through(acts.retrain)
        cast.see_through(acts.land, DROPS[1])
        planned = [next_run.plan_next_run(TaskStore(store, KEYS.task), task(seed), Request()) for seed in SEEDS]
        self.plans = [plan for plan in planned if isinstance(plan, Plan)]
        for plan in self.plans:
            cast.see_through(acts.carry_out, plan.model_dump_json())
        self.landing = cast.writes(acts.land)
        self.retraining = cast.writes(acts.retrain), cast.writes(acts.carry_out)
        """As many writes as it takes to pack a drop, and to retrain on each: a kill strikes at one of them."""
        left, records = objects(store), TaskStore(store, KEYS.task).ledger.read()
        self._digests: dict[str, Digests] = {record.run_id: digests(left, record.run_id) for record in records}
        self._saved = {record.run_id: record.savings.gross for record in records if record.savings}
        self.first = records[0].run_id

    def expected(self, *plans: Plan, quarantined: tuple[str, ...] = ()) -> Expected:
        """Return what the first run and these must leave behind."""
        runs = [self.first, *(plan.run_id for plan in plans)]
        drops = dict.fromkeys(DROPS, "committed") | dict.fromkeys(quarantined, "quarantined")
        return Expected(drops, {run: self._digests[run] for run in runs}, sum(self._saved[run] for run in runs))


def interrupted(cast: Cast, reference: Reference) -> Expected:
    """Kill every process, or ask it to stop, at random writes."""
    for drop, writes in zip(DROPS, reference.retraining, strict=True):
        cast.see_through(acts.land, drop, strikes=list(cast.strikes(reference.landing, 1)))
        cast.see_through(acts.retrain, strikes=list(cast.strikes(writes, 3)))
    return reference.expected(reference.plans[0])


def undisturbed(cast: Cast, reference: Reference) -> Expected:
    """Inject faults of the store only."""
    for drop in DROPS:
        cast.see_through(acts.land, drop)
        cast.see_through(acts.retrain)
    return reference.expected(reference.plans[0])


def racing(cast: Cast, reference: Reference) -> Expected:
    """Promote candidates at once, one of them by two processes, while another process rolls back."""
    cast.see_through(acts.land, DROPS[0])
    cast.together((acts.retrain,), (acts.retrain,))
    cast.see_through(acts.land, DROPS[1])
    contestants = [plan.model_dump_json() for plan in (*reference.plans, reference.plans[0])]
    start = CONTEXT.Barrier(len(contestants) + 1)
    cast.together((acts.roll_back, start), *((acts.carry_out, plan, start) for plan in contestants))
    return reference.expected(*reference.plans)


def watched(cast: Cast, reference: Reference) -> Expected:
    """Let two watchers and a person work on one task; events come twice, and a watcher freezes past its lease."""
    queue = _queue(cast)
    for count, drop in enumerate(DROPS, 1):
        cast.see_through(acts.land, drop, strikes=list(cast.strikes(reference.landing, 1)))
        if queue:
            _repeat(cast, queue, drop)
        [kill] = cast.strikes(EARLY, 1)
        freeze = Strike("SIGSTOP", cast.random.randint(1, EARLY))
        first, second = (cast.start(acts.watch, queue, count, strike=strike) for strike in (freeze, kill))
        person = cast.start(acts.retrain)
        cast.faults["racing process"] += 2
        cast.thaw(first, 1.5 * LEASE_SECONDS)
        for process in (first, second, person):
            cast.end(process)
        cast.struck(second, kill)
        cast.see_through(acts.watch, queue, count)
    return reference.expected(reference.plans[0])


def _queue(cast: Cast) -> str | None:
    bucket = cast.place.url.removeprefix("s3://").partition("/")[0]
    return notified_queue(bucket, cast.server) if cast.place.endpoint else None


def _repeat(cast: Cast, queue: str, drop: str) -> None:
    """Send the event of a drop twice more, and a message that is no event."""
    bucket, _, prefix = cast.place.url.removeprefix("s3://").partition("/")
    twice = notification(bucket, f"{prefix}/{KEYS.manifest(drop)}")
    send(queue, cast.server, twice, twice, "no event at all")
    cast.faults["duplicated event"] += 2
    cast.faults["garbled event"] += 1


def damaged(cast: Cast, reference: Reference) -> Expected:
    """Damage an upload, and the newest states and cached drops, of which a part was never written."""
    store = cast.store()
    _upload_torn(cast, store)
    for drop in DROPS:
        cast.see_through(acts.land, drop)
        for _ in range(2):
            _damage_newest_state(cast, store)
        for path in cast.place.cache.glob("*.safetensors"):
            path.write_bytes(_with_a_hole(path.read_bytes()))
            cast.faults["damaged cache"] += 1
        cast.see_through(acts.retrain)
    return reference.expected(reference.plans[0], quarantined=("torn",))


def _upload_torn(cast: Cast, store: ObjectStore) -> None:
    """Upload a tar that ends in the middle, followed by `_SUCCESS`."""
    cast.see_through(acts.land, DROPS[0])
    shard = next(entry.key for entry in store.list(KEYS.drops) if entry.key.endswith(".tar"))
    data = store.read(shard)[0]
    store.write(KEYS.drop_file("torn", "train-000000.tar"), data[: cast.random.randrange(600, len(data) // 2)])
    store.write(KEYS.success("torn"), b"")
    cast.faults["torn upload"] += 1
    cast.see_through(acts.adopt, "torn", strikes=[Strike("SIGKILL", 1)])


def _damage_newest_state(cast: Cast, store: ObjectStore) -> None:
    """Kill a training once it has saved, and damage what it saved last."""
    strike = Strike(cast.random.choice(["SIGKILL", "SIGTERM"]), cast.random.randint(4, 6), "/state/")
    process = cast.start(acts.retrain, strike=strike)
    cast.end(process)
    if cast.struck(process, strike) and (states := _states(store)):
        store.write(states[-1], _with_a_hole(store.read(states[-1])[0]))
        cast.faults["damaged state"] += 1


def _states(store: ObjectStore) -> list[str]:
    return [entry.key for entry in store.list(f"{KEYS.task}/runs/") if "/state/" in entry.key]


def _with_a_hole(data: bytes) -> bytes:
    """Change bytes among the tensors' values, so that only the digest reveals it."""
    start, stop = len(data) * 2 // 5, len(data) * 3 // 5
    return data[:start] + bytes(stop - start) + data[stop:]


PLOTS: Mapping[str, Callable[[Cast, Reference], Expected]] = {
    plot.__name__: plot for plot in (interrupted, undisturbed, racing, watched, damaged)
}
