"""Erase samples from everything that a task stores: drops, uploads, amendments, thumbnails and the local cache.

The record `erasures/<sequence>.json` is written first. It lists the runs that were trained or evaluated on the samples.
If the erasure is then interrupted, the next `retrain drop erase` completes it. The ledger does not change, so its
totals stay correct.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from retrain.config.task import Task
from retrain.data.committing import DropCommitter
from retrain.data.erased_files import Search
from retrain.data.erasing import (
    clear_cache,
    find_samples,
    find_shards,
    read_keys,
    removals,
    rewrite_drop,
)
from retrain.data.finding import Selection
from retrain.data.images import EXTENSIONS
from retrain.data.sample_keys import name_in_drop, readable_key
from retrain.data.sample_table import USES
from retrain.data.table_making import read_or_make_table
from retrain.errors import RunError
from retrain.pipeline.approval import is_waiting
from retrain.pipeline.planning import learnt_from
from retrain.records import AffectedRun, DropRef, ErasedSample, Erasure, Plan, Verdict
from retrain.records.erasure import RunUse
from retrain.store.task_store import TaskStore


class ErasureResult(NamedTuple):
    """The result of `erase`."""

    erasures: tuple[Erasure, ...]
    """Completed erasures: first the erasures that were interrupted before, then the requested one. The requested one is
    missing if all its samples were already erased."""
    deleted: tuple[str, ...]
    """Keys of the deleted objects. They are not recorded, because they may identify persons."""
    unread: tuple[str, ...]
    """Objects that could not be searched."""


def plan_erasure(selections: Iterable[Selection], task: Task, store: TaskStore, author: str, reason: str) -> Erasure:
    """Return the erasure of these selections, and change nothing.

    The erasure has no samples if all selected samples are already erased. Raises `DropError` for a selection that
    matches no sample.
    """
    committer = DropCommitter(task, store, dry_run=True)
    committer.refresh()
    samples = find_samples(selections, committer)
    return Erasure(
        sequence=store.erasures.next_sequence(),
        at=datetime.now(UTC),
        author=author,
        reason=reason,
        samples=tuple(samples),
        shards=find_shards(samples, committer),
        runs=tuple(find_affected_runs(samples, store)),
    )


def erase(
    selections: Iterable[Selection], task: Task, store: TaskStore, cache: Path, author: str, reason: str
) -> ErasureResult:
    """Complete interrupted erasures, then erase these selections. Raises the errors of `plan_erasure`.

    Holds the task's lease and the lease for commits. Raises `TaskLocked` if a run is in progress.
    """
    selections = list(selections)
    with store.lock() as locked, locked.lock_commits() as guarded:
        done = [_execute(one, task, guarded) for one in guarded.erasures.read() if one.completed_at is None]
        if selections:
            planned = plan_erasure(selections, task, guarded, author, reason)
            if planned.samples:
                done.append(_execute(guarded.erasures.append(planned), task, guarded))
        clear_cache(cache, guarded)
    return ErasureResult(
        tuple(one for one, _, _ in done),
        tuple(key for _, deleted, _ in done for key in deleted),
        tuple(name for _, _, unread in done for name in unread),
    )


def _execute(erasure: Erasure, task: Task, store: TaskStore) -> tuple[Erasure, list[str], list[str]]:
    """Execute an erasure and record its completion.

    Steps that need the samples' keys run before the keys are erased.
    """
    committer = DropCommitter(task, store)
    committer.refresh()
    if changes := removals(erasure, committer):
        store.drops.amendments.append(changes)
    rows = erasure.rows()
    keys = {drop_id: read_keys(drop_id, places, store) for drop_id, places in rows.items()}
    for drop_id in store.drops.committed().quarantined:
        others = {name_in_drop(name, other) for other, theirs in keys.items() for name in _names(theirs)}
        store.drops.remove_from_quarantine_report(drop_id, others.union(_names(keys.get(drop_id, ()))))
    deleted, unread = _delete_files(store.objects.folders(store.keys.drops), erasure, keys, task, store)
    for drop_id, places in rows.items():
        rewrite_drop(drop_id, places, store)
    deleted += _delete_files(rows, erasure, keys, task, store)[0]
    store.drops.amendments.forget_keys(rows)
    for run in erasure.runs:
        _forget_in_run(run, rows, erasure, store)
    unread += [
        f"the shards of drop {drop_id}, which is damaged"
        for drop_id in store.objects.folders(store.keys.drops)
        if drop_id not in committer.known.drops and store.drops.find_undamaged(drop_id)
    ]
    done = erasure.model_copy(update={"objects": len(deleted), "completed_at": datetime.now(UTC)})
    return store.erasures.complete(done), deleted, unread


def _names(keys: Iterable[str]) -> set[str]:
    """Return the keys, and the file paths that they were made from. Reports of quarantined drops can contain both."""
    return {name for key in keys for name in (key, readable_key(key))}


def _delete_files(
    drops: Iterable[str], erasure: Erasure, keys: Mapping[str, set[str]], task: Task, store: TaskStore
) -> tuple[list[str], list[str]]:
    """Delete the drops' objects that contain the samples, and the samples' names in quarantine reports.

    Returns the keys of the deleted objects, and the objects that could not be read.
    """
    deleted, unread = list[str](), list[str]()
    contents = frozenset(bytes.fromhex(sample.content) for sample in erasure.samples if sample.content.strip("0"))
    for drop_id in drops:
        drop = store.drops.find_undamaged(drop_id)
        search = Search(
            store,
            drop_id,
            drop,
            contents,
            frozenset(erasure.shards),
            frozenset(keys.get(drop_id, ())),
            drop_id in keys,
            task.data.frame,
        )
        found = search.run()
        unread += found.unread
        images = [path for path in map(PurePosixPath, found.to_delete) if path.suffix[1:].lower() in EXTENSIONS]
        store.drops.remove_from_quarantine_report(drop_id, {str(path.with_suffix("")) for path in images})
        for name in sorted(found.to_delete):
            deleted.append(store.keys.drop_file(drop_id, name))
            store.objects.delete(deleted[-1])
    return deleted, unread


def _forget_in_run(run: AffectedRun, rows: Mapping[str, set[int]], erasure: Erasure, store: TaskStore) -> None:
    """Remove the thumbnails of the affected drops from a run's list of wrongly classified images.

    Reject the run if it awaits approval.
    """
    files = store.run(run.run_id)
    errors = files.errors()
    if errors:
        mistakes = tuple(
            one.model_copy(update={"thumbnail": None}) if one.where.partition(",")[0] in rows else one
            for one in errors.mistakes
        )
        files.write_errors(errors.model_copy(update={"mistakes": mistakes}))
    if is_waiting(store.approvals.find(run.run_id)):
        why = f"erasure {erasure.sequence}: samples that the run was trained or evaluated on were erased"
        verdict = Verdict(kind="rejected", author=erasure.author, reason=why, at=datetime.now(UTC))
        store.approvals.decide(run.run_id, verdict)


def find_affected_runs(samples: Iterable[ErasedSample], store: TaskStore) -> Iterator[AffectedRun]:
    """Yield the runs that the erasure of samples affects.

    These runs were trained or evaluated on the samples, or continue from a run that was trained on them.
    """
    rows: dict[str, list[int]] = {}
    for sample in samples:
        rows.setdefault(sample.drop, []).append(sample.row)
    plans = {run_id: plan for run_id in store.objects.folders(store.keys.runs) if (plan := _find_plan(run_id, store))}
    refs = {ref for plan in plans.values() for ref in plan.dataset.drops if ref.id in rows}
    uses = {ref: _uses(ref, rows[ref.id], store) for ref in refs}
    seen = {
        run_id: {use for ref in plan.dataset.drops if ref.id in rows for use in uses[ref]}
        for run_id, plan in plans.items()
    }
    trained = {run_id for run_id, found in seen.items() if "train" in found}
    champion = store.champion.read().run_id
    for run_id, plan in plans.items():
        saw: RunUse | None = "trained on them" if run_id in trained else None
        if saw is None and learnt_from(plan.parent, trained, plans):
            saw = "goes on from a run that was trained on them"
        if saw is None and seen[run_id] & {"val", "test"}:
            saw = "measured on them"
        if saw:
            has_model, is_champion = _has_model(run_id, store), run_id == champion
            yield AffectedRun(run_id=run_id, saw=saw, has_model=has_model, is_champion=is_champion)


def _find_plan(run_id: str, store: TaskStore) -> Plan | None:
    try:
        return store.run(run_id).plan()
    except RunError:
        return None


def _uses(ref: DropRef, rows: Iterable[int], store: TaskStore) -> set[str]:
    """Return the splits that the samples belong to in a version of their drop.

    For a sample that belongs to no split, the set contains the reason, such as `duplicate`.
    """
    [version] = store.drops.read_versions([ref])
    table = read_or_make_table(version.model_copy(update={"erased": None}), store)
    return {USES[table.use[row]] for row in rows}


def _has_model(run_id: str, store: TaskStore) -> bool:
    files = store.run(run_id)
    result = files.result()
    return result is not None and result.model_digest is not None and files.removed() is None
