"""Count the classes in a batch of 128 from a stream of class-sorted shards, of hash-ordered shards, and from memory.

The numbers of classes, samples and shards are the same as in ImageNet's training set in shards of 64 MB. The
streaming loader orders the samples of the shards. It shuffles its default number of shards together.
"""

import statistics

import torch
from lib.report import parser, report
from torch import Tensor

from retrain.config.task import Stream
from retrain.data.staging import stable_hash
from retrain.data.stream.order import window_shuffle

CLASSES, EACH, SHARD, BATCH, BATCHES = 1000, 1281, 582, 128, 500
"""Numbers of classes, of images in a class, of images in a shard, of images in a batch, and of counted batches."""


def classes_in_a_batch(labels: Tensor, order: Tensor) -> float:
    """Return the mean number of classes in a batch, over the first `BATCHES` batches."""
    batches = labels[order][: BATCHES * BATCH].view(BATCHES, BATCH)
    return round(statistics.fmean(len(batch.unique()) for batch in batches), 1)


def main() -> None:
    """Compare the orders."""
    options, labels = parser(__doc__).parse_args(), torch.arange(CLASSES).repeat_interleave(EACH)
    hashed = torch.tensor(sorted(range(len(labels)), key=lambda number: stable_hash(f"{labels[number]}/{number}", 0)))
    everything, counts = torch.arange(len(labels)), torch.full((-(-len(labels) // SHARD),), SHARD)
    window = Stream().shuffle_shards
    streamed = window_shuffle(everything, torch.Generator().manual_seed(0), counts, window)
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    figures = {
        "class after class": classes_in_a_batch(labels, streamed),
        "by a hash of names": classes_in_a_batch(labels[hashed], streamed),
        "a plain shuffle": classes_in_a_batch(labels, shuffled),
    }
    report({"classes": CLASSES, "shards": len(counts), "mixed": window, "classes_in_a_batch": figures}, options.output)


if __name__ == "__main__":
    main()
