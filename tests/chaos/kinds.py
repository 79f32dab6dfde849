"""The kinds of short scenarios: two drops land, with a retraining after each. The kinds differ in their faults."""

from collections.abc import Callable, Mapping

from support.watching import notification, notified_queue, send
from support.writes import Strike

from chaos import actions
from chaos.actions import LEASE_SECONDS
from chaos.audit import digests
from chaos.environment import DROPS, KEYS, SEEDS, objects
from chaos.expected import Digests, Expected
from chaos.runner import CONTEXT, Runner
from retrain.pipeline import next_run
from retrain.pipeline.planning import Request
from retrain.records import Plan
from retrain.store import ObjectStore
from retrain.store.task_store import TaskStore

EARLY = 10
"""Number of first writes of a watcher: claims, a plan, first checkpoints. It is killed or suspended at one of them."""


class Reference:
    """The plans and results of undisturbed runs. They are the same in every store."""

    def __init__(self, runner: Runner) -> None:
        store, task = runner.store(), runner.environment.task
        runner.repeat_until_done(actions.land, DROPS[0])
        runner.repeat_until_done(actions.retrain)
        runner.repeat_until_done(actions.land, DROPS[1])
        planned = [next_run.plan_next_run(TaskStore(store, KEYS.task), task(seed), Request()) for seed in SEEDS]
        self.plans = [plan for plan in planned if isinstance(plan, Plan)]
        for plan in self.plans:
            runner.repeat_until_done(actions.train_and_promote, plan.model_dump_json())
        self.landing = runner.writes(actions.land)
        self.retraining = runner.writes(actions.retrain), runner.writes(actions.train_and_promote)
        """Numbers of writes to pack a drop, and to retrain on each drop. A kill happens at one of these writes."""
        left, records = objects(store), TaskStore(store, KEYS.task).ledger.read()
        self._digests: dict[str, Digests] = {record.run_id: digests(left, record.run_id) for record in records}
        self._saved = {record.run_id: record.savings.gross for record in records if record.savings}
        self.first = records[0].run_id

    def expected(self, *plans: Plan, quarantined: tuple[str, ...] = ()) -> Expected:
        """Return the required result of a scenario with the first run and the runs of these plans."""
        runs = [self.first, *(plan.run_id for plan in plans)]
        drops = dict.fromkeys(DROPS, "committed") | dict.fromkeys(quarantined, "quarantined")
        return Expected(drops, {run: self._digests[run] for run in runs}, sum(self._saved[run] for run in runs))


def interrupted(runner: Runner, reference: Reference) -> Expected:
    """Kill every process, or send it SIGTERM, at random writes."""
    for drop, writes in zip(DROPS, reference.retraining, strict=True):
        runner.repeat_until_done(actions.land, drop, strikes=list(runner.strikes(reference.landing, 1)))
        runner.repeat_until_done(actions.retrain, strikes=list(runner.strikes(writes, 3)))
    return reference.expected(reference.plans[0])


def undisturbed(runner: Runner, reference: Reference) -> Expected:
    """Inject only faults of the store."""
    for drop in DROPS:
        runner.repeat_until_done(actions.land, drop)
        runner.repeat_until_done(actions.retrain)
    return reference.expected(reference.plans[0])


def racing(runner: Runner, reference: Reference) -> Expected:
    """Promote candidates at the same time, one of them by two processes. Another process rolls back meanwhile."""
    runner.repeat_until_done(actions.land, DROPS[0])
    runner.run_together((actions.retrain,), (actions.retrain,))
    runner.repeat_until_done(actions.land, DROPS[1])
    contestants = [plan.model_dump_json() for plan in (*reference.plans, reference.plans[0])]
    start = CONTEXT.Barrier(len(contestants) + 1)
    runner.run_together((actions.roll_back, start), *((actions.train_and_promote, plan, start) for plan in contestants))
    return reference.expected(*reference.plans)


def watched(runner: Runner, reference: Reference) -> Expected:
    """Let two watchers and a person work on one task.

    Events arrive twice. One watcher is suspended until its lease has expired.
    """
    queue = make_queue(runner)
    for count, drop in enumerate(DROPS, 1):
        runner.repeat_until_done(actions.land, drop, strikes=list(runner.strikes(reference.landing, 1)))
        if queue:
            repeat_event(runner, queue, drop)
        [kill] = runner.strikes(EARLY, 1)
        freeze = Strike("SIGSTOP", runner.random.randint(1, EARLY))
        first, second = (runner.start(actions.watch, queue, count, strike=strike) for strike in (freeze, kill))
        person = runner.start(actions.retrain)
        runner.faults["racing process"] += 2
        runner.continue_later(first, 1.5 * LEASE_SECONDS)
        for process in (first, second, person):
            runner.end(process)
        runner.struck(second, kill)
        runner.repeat_until_done(actions.watch, queue, count)
    return reference.expected(reference.plans[0])


def make_queue(runner: Runner) -> str | None:
    """Return the address of a new queue that receives the bucket's events. Return None for a folder."""
    bucket = runner.environment.url.removeprefix("s3://").partition("/")[0]
    return notified_queue(bucket, runner.server) if runner.environment.endpoint else None


def repeat_event(runner: Runner, queue: str, drop: str) -> None:
    """Send the event of a drop twice more, and a malformed message."""
    bucket, _, prefix = runner.environment.url.removeprefix("s3://").partition("/")
    twice = notification(bucket, f"{prefix}/{KEYS.manifest(drop)}")
    send(queue, runner.server, twice, twice, "no event at all")
    runner.faults["duplicated event"] += 2
    runner.faults["garbled event"] += 1


def damaged(runner: Runner, reference: Reference) -> Expected:
    """Damage an upload, and overwrite parts of the newest checkpoints and of the cached drops."""
    store = runner.store()
    _upload_torn(runner, store)
    for drop in DROPS:
        runner.repeat_until_done(actions.land, drop)
        for _ in range(2):
            damage_newest_state(runner, store)
        for path in runner.environment.cache.glob("*.safetensors"):
            path.write_bytes(with_a_hole(path.read_bytes()))
            runner.faults["damaged cache"] += 1
        runner.repeat_until_done(actions.retrain)
    return reference.expected(reference.plans[0], quarantined=("torn",))


def _upload_torn(runner: Runner, store: ObjectStore) -> None:
    """Upload a tar that ends in the middle, followed by `_SUCCESS`."""
    runner.repeat_until_done(actions.land, DROPS[0])
    shard = next(entry.key for entry in store.list(KEYS.drops) if entry.key.endswith(".tar"))
    data = store.read(shard)[0]
    store.write(KEYS.drop_file("torn", "train-000000.tar"), data[: runner.random.randrange(600, len(data) // 2)])
    store.write(KEYS.success("torn"), b"")
    runner.faults["torn upload"] += 1
    runner.repeat_until_done(actions.ingest, "torn", strikes=[Strike("SIGKILL", 1)])


def damage_newest_state(runner: Runner, store: ObjectStore, *arguments: object) -> None:
    """Kill a training after it has saved a checkpoint, and damage this checkpoint."""
    strike = Strike(runner.random.choice(["SIGKILL", "SIGTERM"]), runner.random.randint(4, 6), "/state/")
    process = runner.start(actions.retrain, *arguments, strike=strike)
    runner.end(process)
    if runner.struck(process, strike) and (states := _states(store)):
        store.write(states[-1], with_a_hole(store.read(states[-1])[0]))
        runner.faults["damaged state"] += 1


def _states(store: ObjectStore) -> list[str]:
    return [entry.key for entry in store.list(f"{KEYS.task}/runs/") if "/state/" in entry.key]


def with_a_hole(data: bytes) -> bytes:
    """Return the data with zeros in its middle, among the values of the tensors. Only the digest reveals the change."""
    start, stop = len(data) * 2 // 5, len(data) * 3 // 5
    return data[:start] + bytes(stop - start) + data[stop:]


KINDS: Mapping[str, Callable[[Runner, Reference], Expected]] = {
    kind.__name__: kind for kind in (interrupted, undisturbed, racing, watched, damaged)
}
