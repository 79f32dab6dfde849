"""Check that an exported program gives the same labels as the network on all images of the task's test split."""

from collections.abc import Iterator

import torch
from torch import Tensor

from retrain.data.augment import Normalize
from retrain.data.local_cache import cache_folder
from retrain.data.samples import Samples
from retrain.errors import ModelError, RunError
from retrain.export.programs import Format, Program
from retrain.inference.loading import Source
from retrain.inference.model import BATCH, Model
from retrain.pipeline.context import CPU, Context
from retrain.records import Plan, Record
from retrain.training.progress import Observers


class Parity(Record):
    """Difference between an exported program's outputs and the network's, on the same images."""

    format: Format
    images: int
    other_labels: int
    """Number of images for which the exported program and the network predict different classes."""
    largest_difference: float
    """Largest absolute difference of a logit."""


def read_test_samples(source: Source, plan: Plan) -> Samples:
    """Return the test split of a run's dataset, on the CPU.

    Raises `DamagedDrop` if it cannot be read, and `RunError` if all its samples were erased.
    """
    context = Context(source.store, CPU, cache_folder(), Observers())
    samples = context.samples(plan.dataset, ["test"], plan.task.data, plan.loading)["test"]
    if not len(samples):
        raise RunError(
            f"all test images of {plan.run_id} were erased, so no program can be compared with the network; nothing "
            "was exported: export without --onnx and --torch-export"
        )
    return samples


def compare_program(program: Program, model: Model, samples: Samples) -> Parity:
    """Compare a program with the model. Raises `ModelError` if they give an image different labels."""
    other, largest = 0, 0.0
    for images in _normalized(samples, model.plan):
        expected, found = model.predict(images).logits, program.run(images)
        other += int((expected.argmax(1) != found.argmax(1)).sum())
        largest = max(largest, float((expected - found).abs().max()))
    if other:
        raise ModelError(
            f"the {program.format} program of {model.run_id} gives {other} of {len(samples):,} test images another "
            f"label than the network (largest difference of a logit: {largest:.3g}); nothing was exported: export "
            "without this format"
        )
    return Parity(format=program.format, images=len(samples), other_labels=other, largest_difference=largest)


def _normalized(samples: Samples, plan: Plan) -> Iterator[Tensor]:
    normalize = Normalize(plan.task.data)
    for rows in torch.split(torch.arange(len(samples)), BATCH):
        yield normalize(samples.pixels(rows)).contiguous()
