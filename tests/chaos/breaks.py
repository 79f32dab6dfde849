"""Deliberate bugs that the audit must find. They are patched only into the processes of a life."""

from collections.abc import Callable, Mapping

from retrain.store import LocalStore, checkpoints
from retrain.store.s3.store import S3Store
from retrain.training.loaders import EpochSampler


def skip_the_digest() -> None:
    """Take every saved state for a whole one."""
    checkpoints._digest = lambda state: "0" * 32


def swap_without_the_etag() -> None:
    """Replace whatever is there."""
    for store in (LocalStore, S3Store):
        store.replace = lambda self, key, data, version: self.write(key, data) or version


def save_without_the_sampler() -> None:
    """Resume at the start of the first pass."""
    EpochSampler.seek = lambda self, number, offset: None


BREAKS: Mapping[str, Callable[[], None]] = {
    "digest": skip_the_digest,
    "etag": swap_without_the_etag,
    "sampler": save_without_the_sampler,
}
