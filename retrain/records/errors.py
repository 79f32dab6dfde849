"""Errors of a model: results by class, confusions between classes, and the most confident mistakes."""

import re
from collections import Counter
from typing import NamedTuple, Self

from pydantic import NonNegativeInt

from retrain.config import Split
from retrain.config.fields import Share
from retrain.records.base import Record


class ClassFigures(Record):
    """A model's results on the images of one class, and on the images that it predicts as this class."""

    name: str
    samples: NonNegativeInt
    """Images of the class."""
    correct: NonNegativeInt
    """Images of the class that the model classifies correctly."""
    predicted: NonNegativeInt
    """Images of any class that the model classifies as this class."""
    is_new: bool = False
    """Whether the champion that the model is compared with does not know the class."""

    @property
    def recall(self) -> float | None:
        """Return the share of the class's images that are classified correctly, or None without images."""
        return self.correct / self.samples if self.samples else None

    @property
    def precision(self) -> float | None:
        """Return the share of the predictions of the class that are correct, or None if it is never predicted."""
        return self.correct / self.predicted if self.predicted else None


class Confusion(Record):
    """Number of images of one class that the model classifies as another class."""

    true: str
    predicted: str
    count: NonNegativeInt


class ImagePosition(NamedTuple):
    """The position of an image in the test split of a drop, from 1 on."""

    drop: str
    number: int

    def __str__(self) -> str:
        return f"{self.drop}, test image {self.number}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the position that a text states, or None."""
        found = re.fullmatch(r"(.+), test image ([1-9]\d*)", text)
        return cls(found[1], int(found[2])) if found else None


class Mistake(Record):
    """One image that is classified wrongly."""

    true: str
    predicted: str
    probability: Share
    """The model's probability of the predicted class."""
    where: str
    """The image's path, or its drop and its position in the drop's test split."""
    thumbnail: str | None = None
    """A small PNG of the network's input, in base64."""


class ErrorAnalysis(Record):
    """Errors of a model on labelled samples. A run's `errors.json` has its errors on the test split."""

    samples: NonNegativeInt
    classes: tuple[ClassFigures, ...]
    """Results by class, in the order of the logits. Classes that the model does not know come last."""
    confusions: tuple[Confusion, ...]
    """The confusion matrix without its diagonal and zeros, most frequent first."""
    mistakes: tuple[Mistake, ...]
    """The mistakes with the most confident predictions, most confident first."""

    @property
    def accuracy(self) -> float:
        """Return the share of all samples that are classified correctly."""
        return sum(one.correct for one in self.classes) / max(1, self.samples)

    def accuracy_of(self, *, new: bool) -> float | None:
        """Return the accuracy on the new classes, or on all other classes. Return None without samples."""
        chosen = [one for one in self.classes if one.is_new == new]
        samples = sum(one.samples for one in chosen)
        return sum(one.correct for one in chosen) / samples if samples else None

    def most_wrong(self, limit: int) -> list[str]:
        """Return the names of the classes with the most errors, at most `limit`, in the order of the logits."""
        names = [one.name for one in self.classes]
        if len(names) <= limit:
            return names
        wrong: Counter[str] = Counter()
        for confusion in self.confusions:
            wrong.update({confusion.true: confusion.count, confusion.predicted: confusion.count})
        chosen = {name for name, _ in wrong.most_common(limit)}
        return [name for name in names if name in chosen]


class Suspect(Record):
    """A sample whose label may be wrong, and the class that the champion proposes instead."""

    drop: str
    key: str
    content: str
    """Content digest of the sample, in hex."""
    split: Split
    class_name: str
    """Class of the sample."""
    proposed: str
    """The other class to which the champion gives the highest probability."""
    probability: Share
    """The champion's probability of the proposed class."""
    own_probability: Share
    """The champion's probability of the sample's current class."""
    why: str
    thumbnail: str
    """A small PNG of the network's input, in base64."""
