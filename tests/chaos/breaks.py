"""Deliberate bugs that the audit must find. They are patched only into the processes of a scenario."""

from collections.abc import Callable, Mapping

from retrain.pipeline import accounting, erasure
from retrain.store import LocalStore, checkpoints
from retrain.store.s3.store import S3Store
from retrain.training.loaders import EpochSampler


def skip_the_digest() -> None:
    """Accept every checkpoint without comparing its digest."""
    checkpoints._digest = lambda state: "0" * 32


def swap_without_the_etag() -> None:
    """Replace an object without comparing its version."""
    for store in (LocalStore, S3Store):
        store.replace = lambda self, key, data, version: self.write(key, data) or version


def save_without_the_sampler() -> None:
    """Resume at the start of the first epoch."""
    EpochSampler.seek = lambda self, number, offset: None


def credit_every_run() -> None:
    """Credit a run with scratch's iterations even if it missed its target or the gate refused it."""
    compute = accounting.compute_savings
    accounting.compute_savings = lambda plan, outcome, used, evaluated_images, is_delivered: compute(
        plan, outcome, used, evaluated_images, True
    )


def erase_from_the_records_only() -> None:
    """Leave erased samples in their shards."""
    erasure.rewrite_drop = lambda drop_id, rows, store: None


BREAKS: Mapping[str, Callable[[], None]] = {
    "credit": credit_every_run,
    "digest": skip_the_digest,
    "erasure": erase_from_the_records_only,
    "etag": swap_without_the_etag,
    "sampler": save_without_the_sampler,
}
