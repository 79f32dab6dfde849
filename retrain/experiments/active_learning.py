"""Active learning: what lands next is what the model is least sure of (Ash & Adams, figure 9)."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch

from retrain.data.augment import Normalize
from retrain.data.images import decode_image
from retrain.data.packing import pack
from retrain.data.shards import read_shard
from retrain.data.source import Sample, read_source
from retrain.data.staging import Staging, split_into_parts
from retrain.experiments.drops import DataRoot, prepared_data
from retrain.experiments.grid import Cell, drop_id, parent_of
from retrain.experiments.runs import Runs
from retrain.experiments.subsets import write_folder
from retrain.pipeline.context import Context, make_context
from retrain.pipeline.evaluate import load_network
from retrain.recipe.analysis import smallest_margins
from retrain.records import Drop, Plan
from retrain.training.evaluation import compute_logits


def commit_next(runs: Runs, cell: Cell, root: DataRoot, device: str) -> None:
    """Commit a cell's drop: the pool's samples with the smallest margins, and its share of those held out.

    Nothing is done where it is committed already, or where the run that the cell continues from left no model.
    """
    parent, task = parent_of(cell), runs.task(cell)
    if parent is None or runs.has_landed(cell) or not runs.left_model(parent):
        return
    context = make_context(runs.store(task.name), task, device)
    landed = {key for drop in runs.drops(parent) for key in _keys(context, drop)}
    staging = Staging.parse("share", runs.study.splits[cell.split].sizes)
    with prepared_data(runs.study, root) as (sources, folder):
        samples = read_source(sources[0])
        pool = [sample for sample in samples if _is_train(sample) and sample.key not in landed]
        count = sizes(sum(map(_is_train, samples)), staging)[cell.drops - 1]
        chosen = [pool[index] for index in _least_sure(context, runs.plan(parent), pool, count)]
        held_out = [sample for sample in split_into_parts(samples, staging)[cell.drops - 1] if not _is_train(sample)]
        write_folder([*chosen, *held_out], folder / "next")
        pack(folder / "next", task, context.store, drop_id=drop_id(runs.study, cell))


def sizes(total: int, staging: Staging) -> list[int]:
    """Return how many samples each part of a staging by share has, which add up to the total."""
    ends = [total * percent // 100 for percent in accumulate(staging.sizes)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _least_sure(context: Context, plan: Plan, pool: Sequence[Sample], count: int) -> list[int]:
    images = torch.stack([torch.as_tensor(decode_image(one.entry.read(), plan.task.data.frame)) for one in pool])
    network = load_network(context.files(plan.run_id), plan, context.factories, context.device)
    logits = compute_logits(network, images.to(context.device), Normalize(plan.task.data, plan.task.training.bf16))
    return smallest_margins(logits, count).tolist()


def _is_train(sample: Sample) -> bool:
    return sample.split in (None, "train")


def _keys(context: Context, drop: Drop) -> Iterator[str]:
    """Yield the keys of a drop's training samples."""
    for shard in drop.shards:
        if shard.split == "train":
            key = context.store.keys.shard(drop.id, shard.name)
            with context.store.objects.open(key) as stream:
                yield from (sample.key for sample in read_shard(stream, shard, key))
