"""Format drops and erasures as tables."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from retrain.cli.formatting import ABSENT, Column, Rows, details, grid
from retrain.config import SPLITS
from retrain.data.dataset import untrained_classes
from retrain.data.sample_keys import readable_key
from retrain.records import Drift, Drop, Erasure
from retrain.utils.text import join_names, pluralize

LEFT_OUT = 20
"""Largest number of bad samples that a committed drop's table lists. A dry run lists all, so that a person can correct
them at once."""


DROPS = (
    Column("drop", lambda drop: drop.id, "left"),
    Column("committed (UTC)", lambda drop: f"{drop.committed_at:%Y-%m-%d %H:%M}", "left"),
    Column("classes", lambda drop: str(len(drop.classes))),
    *(Column(split, lambda drop, split=split: f"{drop.samples(split):,}") for split in SPLITS),
    Column("MB", lambda drop: f"{sum(shard.size for shard in drop.shards) / 1e6:.1f}"),
)


def drop_table(drops: Sequence[Drop]) -> Table:
    """Return a table with a line for each drop."""
    return grid(DROPS, drops)


def drop_details(
    drop: Drop, drift: Drift | None = None, is_committed: bool = True, quarantine: str | None = None
) -> Table:
    """Return a drop's manifest as a table, with its drift if it was measured, and the cause of its quarantine."""
    return details(f"drop {drop.id}", _drop_rows(drop, drift, is_committed, quarantine))


def _drop_rows(drop: Drop, drift: Drift | None, is_committed: bool, quarantine: str | None) -> Rows:
    if is_committed:
        yield "committed", f"{drop.committed_at:%Y-%m-%d %H:%M:%S} UTC"
    if quarantine:
        yield "quarantined", f"no run uses this drop: {quarantine}"
    yield "digest", drop.digest
    yield "samples", samples(drop)
    if drop.reading:
        yield "labels from", drop.reading.labels_from
        yield from (("not samples", f"{count:,} {kind}") for kind, count in drop.reading.not_samples.items())
        yield from (("note", note) for note in drop.reading.notes)
    yield "held out", "; ".join(_describe_held_out(drop)) or ABSENT
    if untrained := untrained_classes([drop]):
        yield "without training images", f"in this drop: {join_names(untrained)}"
    if drop.erased:
        yield "erased", pluralize(len(drop.erased.rows), "sample")
    for change in drop.changes:
        reason = f" ({change.reason})" if change.reason else ""
        yield "amended", f"{readable_key(change.key)}: {change.before} -> {change.after or 'removed'}{reason}"
    if drift:
        yield "drift", str(drift)
    left_out = sorted(drop.left_out, key=lambda bad: bad.place)
    for bad in left_out[: LEFT_OUT if is_committed else None]:
        yield "bad", f"{bad.place}: {bad.cause}"
    if is_committed and (more := len(left_out) - LEFT_OUT) > 0:
        yield "", f"and {more:,} more: `retrain drop show --json` lists all"
    yield "shards", ", ".join(f"{shard.name} ({shard.samples:,})" for shard in drop.shards)
    yield pluralize(len(drop.classes), "class"), join_names(drop.classes)


def _describe_held_out(drop: Drop) -> Iterator[str]:
    """Yield a text for each split that was held out of train, with its real share.

    The images are drawn at random, so the real share can differ from the setting.
    """
    total = sum(drop.samples(split) for split in ("train", *drop.held_out))
    for split, share in drop.held_out.items():
        held_out = drop.samples(split)
        real = f"{held_out / total:.0%}, " if total else ""
        yield f"{held_out:,} of {total:,} images as {split} ({real}each drawn with a probability of {share:.0%})"


def class_table(drop: Drop) -> Table:
    """Return a table with a line for each class: its number of samples in each split."""
    columns = [
        Column("class", str, "left"),
        *(Column(split, lambda name, of=counts: f"{of.get(name, 0):,}") for split, counts in drop.counts.items()),
    ]
    return grid(columns, drop.classes)


def samples(drop: Drop) -> str:
    """Return a text with the numbers of a drop's samples in each split, and of bad samples."""
    bad = [f"{len(drop.left_out):,} bad"] if drop.left_out else []
    return ", ".join([*(f"{drop.samples(split):,} {split}" for split in SPLITS), *bad])


def erasure_details(erasure: Erasure) -> Table:
    """Return the samples and shards of an erasure, and the runs that used its samples, as a table."""
    return details(f"erasure {erasure.sequence}", _erasure_rows(erasure))


def _erasure_rows(erasure: Erasure) -> Rows:
    yield "samples", f"{len(erasure.samples):,}"
    for drop, rows in erasure.rows().items():
        yield f"of drop {drop}", f"{len(rows):,}"
    yield "shards to rewrite", f"{len(erasure.shards):,}"
    for run in erasure.runs:
        model = "its model is the champion" if run.is_champion else "its model is in the store"
        yield run.run_id, f"{run.saw}; {model}" if run.has_model else f"{run.saw}; its model is not in the store"
    if not erasure.runs:
        yield "runs", "none used these samples"
