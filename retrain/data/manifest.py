"""A drop's manifest, read from bytes that anybody may have written."""

import re
from collections.abc import Iterator
from itertools import chain

from pydantic import ValidationError

from retrain.errors import DropError
from retrain.records import Drop, digest
from retrain.store.base import is_key

DROP_ID = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
BYTES_A_SAMPLE = 512
"""A sample in a tar takes up its header at least."""


def drop_digest(drop: Drop) -> str:
    """Identity of a drop's content: everything but what it is called, when it came, and how a cause was worded.

    Nothing left out adds nothing: drops packed before there was a limit keep their digest.
    """
    content = drop.model_dump(mode="json", exclude={"id", "committed_at", "digest", "left_out"})
    if drop.left_out:
        content["left_out"] = [[bad.where, bad.key] for bad in drop.left_out]
    return digest(content)


def parse(data: bytes) -> Drop:
    """Return the manifest that the bytes hold. Raises `DropError`, with the cause alone, if they hold none."""
    try:
        drop = Drop.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise DropError(f"not a drop's manifest: {field}: {first['msg']}") from error
    for problem in _problems(drop):
        raise DropError(problem)
    return drop


def _problems(drop: Drop) -> Iterator[str]:
    if drop.digest != drop_digest(drop):
        yield "its digest does not fit its content: somebody changed it"
    if not DROP_ID.fullmatch(drop.id):
        yield f"{drop.id!r} is no id of a drop"
    if len(set(drop.classes)) < len(drop.classes):
        yield "a class is named twice"
    if not set(chain.from_iterable(drop.counts.values())).issubset(drop.classes):
        yield "samples are counted of a class that is not among its classes"
    for shard in drop.shards:
        if not is_key(shard.name):
            yield f"{shard.name!r} cannot be a shard's name"
        if shard.samples * BYTES_A_SAMPLE > shard.size:
            yield f"{shard.name} cannot hold {shard.samples:,} samples in {shard.size:,} bytes"
