"""Check that runs can rely on the store: access, credentials, conditional writes, clock, files of the drops."""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from retrain.doctor import Check, Finding
from retrain.records import Drop
from retrain.store import missing_folder
from retrain.store.base import ObjectStore, probe_conditional_writes
from retrain.store.task_store import TaskStore
from retrain.utils.text import name_some, pluralize

FILES = "files of drops"
"""Name of the check of the drops' files."""
RESTORE = (
    "Restore the missing files from a copy of the store. A run that reads an incomplete drop ends, and quarantines the "
    "drop."
)
QUARANTINED = (
    "No run uses them. `retrain status` prints the causes. After you have corrected a drop's files, delete its "
    "quarantine.json."
)

SKEW = 10.0
"""Largest difference, in seconds, between the clocks of this machine and the store. Machines compare the times at which
leases expire, so this limit is stricter than the limit of S3 (15 minutes)."""


def check_storage(store: TaskStore, drops: Callable[[], Sequence[Drop]]) -> Iterator[Finding]:
    """Yield findings about a store, up to the first failure: later checks would fail for the same reason.

    Nothing is written to a local store whose folder is missing, because this would create the folder.
    """
    if (folder := missing_folder(store.url)) and not os.path.exists(folder):
        yield _check_missing(folder)
        return
    checks = (
        Check("credentials", lambda: _credentials(store.objects)),
        Check("store", lambda: _access(store, drops())),
        Check("conditional writes", lambda: _conditions(store.objects)),
        Check("clock", lambda: _clock(store.objects)),
    )
    for check in checks:
        finding = check.run()
        yield finding
        if finding.state == "failed":
            return


def check_files(store: TaskStore, drops: Sequence[Drop]) -> Finding | str:
    """Compare the store's listing with the files that the drops' manifests list. No file is read."""
    keys = store.keys
    missing = {keys.drop_file(drop.id, name): f"{drop.id}/{name}" for drop in drops for name in _file_names(drop)}
    files = len(missing)
    for entry in store.objects.list(keys.drops) if drops else ():
        missing.pop(entry.key, None)
    quarantined = store.drops.committed().quarantined
    if not missing and quarantined:
        found = f"{pluralize(len(quarantined), 'drop')} in quarantine: {name_some(quarantined)}"
        return Finding(check=FILES, state="warning", found=found, mend=QUARANTINED)
    if not missing:
        return f"{pluralize(files, 'file')} of {pluralize(len(drops), 'drop')}, none missing"
    return Finding(check=FILES, state="failed", found=f"missing: {name_some(missing.values())}", mend=RESTORE)


def _file_names(drop: Drop) -> list[str]:
    """Return the names of the files that runs read."""
    return [shard.name for shard in drop.shards] + ([drop.sample_list.name] if drop.sample_list else [])


def _check_missing(folder: Path) -> Finding:
    existing = next(path for path in folder.parents if os.path.exists(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        found = f"{folder} can be neither found nor created in {existing}"
        return Finding(check="store", state="failed", found=found, mend="Correct `store` in the task file.")
    mend = "The first write creates it. If the task has drops already, correct `store` in the task file."
    return Finding(check="store", state="warning", found=f"{folder} does not exist yet", mend=mend)


def _credentials(store: ObjectStore) -> Finding | str:
    scheme, separator, _ = store.url.partition("://")
    if not separator:
        return "none needed: the store is a local folder"
    if scheme != "s3":
        from retrain.store.cloud.services import credentials_method as cloud_credentials_method

        return f"by {cloud_credentials_method(scheme)}"
    from retrain.store.s3.store import credentials_method

    method = credentials_method()
    if method is None:
        return Finding(
            check="credentials",
            state="failed",
            found="none",
            mend="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or give the pod a role.",
        )
    return f"by {method}"


def _access(store: TaskStore, drops: Sequence[Drop]) -> str:
    return f"{store.url} can be read: {pluralize(len(drops), 'drop')} of task {store.task}"


def _conditions(store: ObjectStore) -> str:
    probe_conditional_writes(store)
    return "honoured"


def _clock(store: ObjectStore) -> Finding | str:
    skew = (datetime.now(UTC) - store.now()).total_seconds()
    found = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the store's"
    if abs(skew) <= SKEW:
        return found
    return Finding(
        check="clock",
        state="failed",
        found=found,
        mend=f"Set this machine's clock (timedatectl set-ntp true): leases allow a difference of {SKEW:.0f} s.",
    )
