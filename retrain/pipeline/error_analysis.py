"""Count a model's errors, and choose the mistakes to show."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from retrain.data.samples import Samples
from retrain.records import Plan
from retrain.records.errors import ClassFigures, Confusion, ErrorAnalysis, ImagePosition, Mistake

MISTAKES = 24
"""Number of stored mistakes: four rows of six in the report."""
THUMBNAIL = 96
"""Longest side of a thumbnail, in pixels."""


class Prediction(NamedTuple):
    """The prediction for one sample, with its true class."""

    true: str
    predicted: str
    probability: float


class SampleView(NamedTuple):
    """The place of a sample in its drop, and a thumbnail of the sample."""

    where: str
    thumbnail: str | None = None


def analyse_errors(
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    describe: Callable[[int], SampleView],
    new: Collection[str] = (),
) -> ErrorAnalysis:
    """Return the errors in N predictions.

    `describe` returns the place and the thumbnail of sample n. `new` are the classes that are reported as new.
    """
    pairs = Counter((one.true, one.predicted) for one in predictions)
    samples = Counter(one.true for one in predictions)
    predicted = Counter(one.predicted for one in predictions)
    names = dict.fromkeys([*classes, *sorted(samples)])
    wrong = [number for number, one in enumerate(predictions) if one.true != one.predicted]
    wrong.sort(key=lambda number: (-predictions[number].probability, number))
    return ErrorAnalysis(
        samples=len(predictions),
        classes=tuple(
            ClassFigures(
                name=name,
                samples=samples[name],
                correct=pairs[name, name],
                predicted=predicted[name],
                is_new=name in new,
            )
            for name in names
        ),
        confusions=tuple(
            Confusion(true=true, predicted=guess, count=count)
            for (true, guess), count in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
            if true != guess
        ),
        mistakes=tuple(_mistake(predictions[number], describe(number)) for number in wrong[:MISTAKES]),
    )


def _mistake(prediction: Prediction, view: SampleView) -> Mistake:
    return Mistake(**prediction._asdict(), **view._asdict())


def analyse_test_split(
    plan: Plan, known: Sequence[str], test: Samples, predicted: Tensor, probability: Tensor
) -> ErrorAnalysis:
    """Return the errors of a run's model on its test split.

    `known` are the classes of the previous champion, if there was one. `predicted` and `probability` [N] have the most
    likely class of each sample and its probability.
    """
    names = plan.dataset.classes
    predictions = [
        Prediction(names[true], names[guess], min(1.0, chance))
        for true, guess, chance in zip(test.labels.tolist(), predicted.tolist(), probability.tolist(), strict=True)
    ]
    first = np.cumsum([0, *test.sizes])

    def describe(number: int) -> SampleView:
        drop = int(test.drop[number])
        where = ImagePosition(plan.dataset.drops[drop].id, int(number - first[drop]) + 1)
        return SampleView(str(where), make_thumbnail_of(test, number))

    return analyse_errors(predictions, names, describe, new=set(names) - set(known) if known else ())


def make_thumbnail_of(samples: Samples, number: int) -> str:
    """Return a sample's image as a small PNG, in base64."""
    pixels = samples.images[samples.labels.new_tensor([number]).to(samples.pixels_on)][0]
    return make_thumbnail(Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()))


def make_thumbnail(image: Image.Image) -> str:
    """Return an image as a small PNG, in base64."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
