"""Deliberate bugs that the audit must find. They are patched only into the processes of a scenario."""

from collections.abc import Callable, Mapping

from retrain.store import LocalStore, checkpoints
from retrain.store.s3.store import S3Store
from retrain.training.loaders import EpochSampler


def skip_the_digest() -> None:
    """Accept every saved state, without comparing its digest."""
    checkpoints._digest = lambda state: "0" * 32


def swap_without_the_etag() -> None:
    """Replace an object without comparing its version."""
    for store in (LocalStore, S3Store):
        store.replace = lambda self, key, data, version: self.write(key, data) or version


def save_without_the_sampler() -> None:
    """Resume at the start of the first epoch."""
    EpochSampler.seek = lambda self, number, offset: None


BREAKS: Mapping[str, Callable[[], None]] = {
    "digest": skip_the_digest,
    "etag": swap_without_the_etag,
    "sampler": save_without_the_sampler,
}
