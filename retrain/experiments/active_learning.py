"""Active learning: the next drop contains the samples of which the model is least sure (Ash & Adams, figure 9).

A cell is one run of a study (`grid.Cell`). The pool is all training samples that the run's earlier drops do not have.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch

from retrain.data.assignment import Assignment
from retrain.data.augment import Normalize
from retrain.data.images import decode_image
from retrain.data.labels import Sample
from retrain.data.packing import pack
from retrain.data.shards import read_shard
from retrain.data.source import read_source
from retrain.data.staging import Staging, split_into_parts, stable_hash
from retrain.experiments.drops import DataRoot, draw_of, prepared_data
from retrain.experiments.grid import Cell, drop_id, drop_ids, parent_of
from retrain.experiments.runs import Runs
from retrain.experiments.settings import Split
from retrain.experiments.subsets import in_steps, is_train, write_folder
from retrain.pipeline.context import Context, make_context
from retrain.pipeline.evaluate import load_network
from retrain.recipe.analysis import smallest_margins
from retrain.records import Drop, Plan
from retrain.training.evaluation import compute_logits


def commit_next(runs: Runs, cell: Cell, root: DataRoot, device: str) -> None:
    """Commit a cell's drop: the pool's samples with the smallest margins, and a share of the held-out samples.

    Does nothing for the first drop, for a committed drop, and if the run that the cell continues from has no model.
    """
    parent, task = parent_of(cell), runs.task(cell)
    if parent is None or runs.has_landed(cell) or not runs.has_model(parent):
        return
    context = make_context(runs.store(task.name), task, device)
    used = {key for drop in runs.drops(parent) for key in _keys(context, drop)}
    with prepared_data(runs.study, root, task) as (sources, folder):
        samples = read_source(sources[0])
        count, held_out = _next_samples(samples, runs.study.splits[cell.split], cell.drops, draw_of(runs.study, task))
        pool = [sample for sample in samples if is_train(sample) and sample.key not in used]
        chosen = [pool[index] for index in _least_sure(context, runs.plan(parent), pool, count)]
        write_folder([*chosen, *held_out], folder / "next")
        own = drop_ids(runs.study, cell)  # other cells of the grid may have chosen the same samples
        pack(folder / "next", task, context.store, drop_id=drop_id(runs.study, cell), compare_with=own)


def _next_samples(samples: Sequence[Sample], split: Split, drops: int, seed: int) -> tuple[int, list[Sample]]:
    """Return the number of training samples in this drop, and its held-out samples."""
    part: Sequence[Sample]
    if split.step:
        part, count = in_steps(samples, split, lambda sample: stable_hash(sample.key, seed))[drops - 1], split.step
    else:
        staging = Staging.parse("share", split.sizes, seed)
        part = split_into_parts(samples, staging)[drops - 1]
        count = sizes(sum(map(is_train, samples)), staging)[drops - 1]
    return count, [sample for sample in part if not is_train(sample)]


def sizes(total: int, staging: Staging) -> list[int]:
    """Return the number of samples in each part of a split by percentages. The numbers add up to the total."""
    ends = [total * percent // 100 for percent in accumulate(staging.sizes)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _least_sure(context: Context, plan: Plan, pool: Sequence[Sample], count: int) -> list[int]:
    images = torch.stack([torch.as_tensor(decode_image(one.entry.read(), plan.task.data.frame)) for one in pool])
    network = load_network(context.files(plan.run_id), plan, context.factories, context.device)
    logits = compute_logits(network, images.to(context.device), Normalize(plan.task.data, plan.task.training.bf16))
    return smallest_margins(logits, count).tolist()


def _keys(context: Context, drop: Drop) -> Iterator[str]:
    """Yield the keys of a drop's training samples."""
    assignment = Assignment.of(drop, context.store)
    for position, shard in enumerate(drop.shards):
        if shard.split == "train":
            key = context.store.keys.drop_file(drop.id, shard.name)
            with context.store.objects.open(key) as stream:
                yield from (sample.key for sample in read_shard(stream, shard, key, assignment.skipped(position)))
