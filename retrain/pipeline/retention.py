"""Find and remove a task's files that no later step needs. Imports no torch.

Some runs keep all their files: the runs that a rollback, a resumed run, the next run or a report may read. The model,
optimizer state, learning-speed index and checkpoints of all other runs are removed. All plans, results and curves and
the ledger are kept, so the sums over all runs stay correct.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from retrain.records import Plan, Removal, Removed, Retention, RunRecord
from retrain.records.ledger import is_baseline
from retrain.store import champions
from retrain.store.base import Entry, read_record
from retrain.store.claims import CORRECTION, Claim
from retrain.store.keys import OWN_SHARD
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import map_ahead

LARGE = re.compile(r"(model|moments)\.safetensors|(learning_speed|state)/.+")
"""A run's large files. Its other files are records."""
OUTCOME = ("result.json", "evaluation.json", "decision.json")
"""Files that mark a run's other files as complete. If a run has no record, they are removed first. The run can then
restart."""

WRITTEN_SHARD = re.compile(rf"(packed/)?{OWN_SHARD}")
"""Names of the shards that `retrain` writes into a drop's folder."""

log = logging.getLogger("retrain")


def plan_removal(store: TaskStore, keep_last: int, older_than: timedelta, now: datetime) -> Retention:
    """Return the files that can be removed now, and change nothing.

    The newest `keep_last` runs keep all files, and the last `keep_last` promotions can be rolled back. Runs that ended
    less than `older_than` ago keep all files too.
    """
    files = _run_files(store)
    records = {record.run_id: record for record in store.ledger.read()}
    unfinished = _unfinished_plans(store, files, records, now - older_than)
    roots = dict(_roots(store, list(records.values()), unfinished, keep_last, now - older_than))
    removals = [
        _removal_of_run(run_id, entries, records.get(run_id))
        for run_id, entries in sorted(files.items())
        if run_id not in roots
    ]
    found = (*filter(None, removals), *_orphaned_shards(store), *_orphaned_claims(store))
    kept = {
        run_id: why for run_id, why in roots.items() if any(_is_large(store, entry) for entry in files.get(run_id, ()))
    }
    return Retention(task=store.task, removals=found, kept=kept)


def remove(store: TaskStore, found: Retention, now: datetime) -> Retention:
    """Remove these files, and return the removed ones. `store` must hold the task's lease.

    A run that is promoted by hand meanwhile keeps its files. This function writes the run's marker before it reads the
    champion again. A promotion by hand reads the marker after the swap.
    """
    removed = tuple(removal for removal in found.removals if _remove(store, removal, now))
    return found.model_copy(update={"removals": removed, "is_done": True})


def _remove(store: TaskStore, removal: Removal, now: datetime) -> bool:
    if removal.is_marked:
        files = store.run(removal.what)
        files.write_removed(Removed(run_id=removal.what, at=now, bytes=removal.bytes))
        if store.champion.read().run_id == removal.what:
            files.forget_removed()
            return False
    for key in removal.keys:
        store.objects.delete(key)
    log.info("%s: removed %s: %s", store.task, removal.what, removal.why)
    return True


def _roots(
    store: TaskStore, records: Sequence[RunRecord], unfinished: Sequence[Plan], keep_last: int, since: datetime
) -> Iterator[tuple[str, str]]:
    """Yield the runs that keep their files, each with the reason. If a run has several reasons, the last is shown."""
    for record in records:
        if record.ended_at > since:
            yield record.run_id, "it ended recently"
    for record in records[-keep_last:] if keep_last else ():
        yield record.run_id, "it is among the newest runs"
    if baseline := next((record.run_id for record in reversed(records) if is_baseline(record)), None):
        yield baseline, "it is the baseline of the targets"
    seen = store.champion.read()
    for plan in unfinished:
        needs = (plan.parent, champions.compared_champion(seen, plan.run_id))
        yield from ((run_id, f"{plan.run_id} needs it") for run_id in needs if run_id)
        yield plan.run_id, "it has not ended"
    current_history = champions.standing_runs(seen.champion) if seen.champion else []
    for run_id in current_history[-keep_last - 1 : -1]:
        yield run_id, "a rollback may need it"
    if seen.run_id:
        yield seen.run_id, "it is the champion"


def find_unfinished_plans(store: TaskStore, since: datetime) -> list[Plan]:
    """Return the plans of the runs that have not ended and were not abandoned before `since`."""
    return _unfinished_plans(store, _run_files(store), {record.run_id: record for record in store.ledger.read()}, since)


def _unfinished_plans(
    store: TaskStore, files: Mapping[str, Sequence[Entry]], records: Mapping[str, RunRecord], since: datetime
) -> list[Plan]:
    plans = [store.run(run_id).plan() for run_id in sorted(_with_plan(files) - records.keys())]
    seen = store.champion.read()
    champion_since = seen.champion.history[-1].at if seen.champion else None
    champion = records.get(seen.run_id or "")
    held = _held_runs(store) if plans else frozenset()
    return [plan for plan in plans if not _is_abandoned(plan, champion, champion_since, since, held)]


def _held_runs(store: TaskStore) -> Collection[str]:
    """Return the runs that have claimed drops, or for which approval was requested."""
    claims = store.claims()
    claims.refresh()
    return claims.owners() | store.approvals.run_ids()


def _is_abandoned(
    plan: Plan,
    champion: RunRecord | None,
    champion_since: datetime | None,
    since: datetime,
    held: Collection[str],
) -> bool:
    """Return whether a run without a record is abandoned.

    It is abandoned if a champion that was trained on all of the run's drops was promoted before `since`. Only runs that
    were started by hand can be abandoned. A run of the watcher has a claim for each of its new drops, and a candidate
    that awaits approval has a request: `held` has both. A trial may use the champion's dataset again. Therefore it is
    abandoned only if the champion has more drops than the trial.
    """
    if champion is None or champion_since is None or champion_since > since:
        return False
    if plan.purpose == "trial" and len(champion.drops) <= len(plan.dataset.drops):
        return False
    return plan.run_id not in held and set(champion.drops).issuperset(drop.id for drop in plan.dataset.drops)


def _run_files(store: TaskStore) -> dict[str, list[Entry]]:
    """Return the files of every run."""
    files: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in store.objects.list(store.keys.runs):
        files[entry.key.removeprefix(store.keys.runs).partition("/")[0]].append(entry)
    return files


def _with_plan(files: Mapping[str, Sequence[Entry]]) -> set[str]:
    return {run_id for run_id, entries in files.items() if any(entry.key.endswith("/plan.json") for entry in entries)}


def _is_large(store: TaskStore, entry: Entry) -> bool:
    return LARGE.fullmatch(entry.key.removeprefix(store.keys.runs).partition("/")[2]) is not None


def measure_bytes(store: TaskStore) -> dict[str, int]:
    """Return the bytes that a task takes in its store, by kind: drops, models, states, learning_speed and records."""
    sizes = dict.fromkeys(("drops", "models", "states", "learning_speed", "records"), 0)
    for entry in store.objects.list(f"{store.task}/"):
        sizes[_kind(store, entry.key)] += entry.size
    return sizes


def _kind(store: TaskStore, key: str) -> str:
    if key.startswith(store.keys.drops):
        return "drops"
    name = key.removeprefix(store.keys.runs).partition("/")[2] if key.startswith(store.keys.runs) else ""
    if LARGE.fullmatch(name) is None:
        return "records"
    return {"learning_speed": "learning_speed", "state": "states"}.get(name.partition("/")[0], "models")


def _removal_of_run(run_id: str, entries: Sequence[Entry], record: RunRecord | None) -> Removal | None:
    named = {entry.key.partition(f"/{run_id}/")[2]: entry for entry in entries}
    large = [entry for name, entry in named.items() if LARGE.fullmatch(name)]
    if not large:
        return None
    first = [] if record else [named[name] for name in OUTCOME if name in named]
    why = f"{record.ending}, {record.ended_at:%Y-%m-%d}" if record else "it was abandoned, and cannot be resumed"
    return _make_removal(run_id, why, [*first, *large], is_marked=record is not None)


def _make_removal(what: str, why: str, entries: Sequence[Entry], *, is_marked: bool = False) -> Removal:
    keys, size = tuple(entry.key for entry in entries), sum(entry.size for entry in entries)
    return Removal(what=what, why=why, is_marked=is_marked, keys=keys, bytes=size)


def _orphaned_shards(store: TaskStore) -> Iterator[Removal]:
    """Yield the shards that an interrupted or refused packing of a drop left behind: its manifest does not list them.

    A producer's shards are never removed: in the folder of an upload, `retrain` writes shards only into `packed/`.
    """
    written = defaultdict[str, list[tuple[str, Entry]]](list)
    for entry in store.objects.list(store.keys.drops):
        drop_id, _, name = entry.key.removeprefix(store.keys.drops).partition("/")
        if WRITTEN_SHARD.fullmatch(name):
            written[drop_id].append((name, entry))
    usable = (drop_id for drop_id in store.drops.committed().usable if drop_id in written)
    for drop in filter(None, map_ahead(store.drops.find_undamaged, usable)):
        named = {shard.name for shard in drop.shards}
        folder = "packed/" if drop.uploaded else ""
        if orphans := [entry for name, entry in written[drop.id] if name not in named and name.startswith(folder)]:
            yield _make_removal(f"drops/{drop.id}", "its manifest does not name them", orphans)


def _orphaned_claims(store: TaskStore) -> Iterator[Removal]:
    """Yield the claims of ended runs on drops that are no longer in the store."""
    existing = set(store.objects.folders(store.keys.drops))
    claims = list(store.objects.list(store.keys.claims))
    names = [entry.key.removeprefix(store.keys.claims).removesuffix(".json") for entry in claims]
    orphans = [
        entry
        for entry, name in zip(claims, names, strict=True)
        if name not in existing and not name.startswith(CORRECTION)
    ]
    owners = map_ahead(lambda entry: read_record(store.objects, entry.key, Claim)[0].run_id, orphans)
    ended = [entry for entry, owner in zip(orphans, owners, strict=True) if store.ledger.final(owner)]
    if ended:
        yield _make_removal("claims", "their drops are no longer in the store", ended)
