"""Predict lists of images that may contain unreadable ones, and compare the answers with true classes.

Threads decode images ahead, in order and in bounded memory.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from retrain.data.labels import name_class
from retrain.errors import ImageError, UserError
from retrain.inference.model import BATCH, Model, Ranked
from retrain.inference.tables import Row
from retrain.pipeline.error_analysis import Prediction, SampleView, analyse_errors
from retrain.records import ErrorAnalysis
from retrain.utils.parallel import in_chunks, parallel_map
from retrain.utils.text import name_some


class Answer(NamedTuple):
    """The result for one image: its most probable classes, or the reason why it cannot be read."""

    row: Row
    top: list[Ranked]
    """Most likely first. Empty if the image cannot be read."""
    error: str | None = None


def predict_rows(model: Model, rows: Iterable[Row], top: int = 1, batch_size: int = BATCH) -> Iterator[Answer]:
    """Yield the `top` most likely classes of every row's image, in order."""

    def decode(row: Row) -> tuple[Row, NDArray[np.uint8] | ImageError]:
        try:
            return row, model.preprocess.decode(row.image)
        except ImageError as error:
            return row, error

    for batch in in_chunks(parallel_map(decode, rows), batch_size):
        yield from _answers(model, batch, top)


def _answers(model: Model, batch: list[tuple[Row, NDArray[np.uint8] | ImageError]], top: int) -> Iterator[Answer]:
    readable = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
    found = iter(model.predict(torch.from_numpy(np.stack(readable))).top(top) if readable else ())
    for row, pixels in batch:
        if isinstance(pixels, ImageError):
            cause = str(pixels).removeprefix(f"{row.image}: ")  # another column has the path
            yield Answer(row, [], cause + _folder_advice(row))
        else:
            yield Answer(row, next(found))


def _folder_advice(row: Row) -> str:
    """Return where the image of a table is, if it is missing in the current folder and the table's folder has it."""
    if row.table is None or os.path.exists(row.image):
        return ""
    folder = Path(row.table).parent
    found = folder / row.image
    if not os.path.isfile(found):
        return ""
    return f". Paths in a table are relative to the current folder; {found} exists: run the command in {folder}"


class LabelledPredictions:
    """Collects the predictions for labelled images. True classes are named as in drops, with the task's aliases."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self._aliases = aliases
        self._predictions: list[Prediction] = []
        self._images: list[str] = []

    def watch(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """Yield the answers unchanged, and collect the predictions for readable images.

        Raises `UserError` if a label is missing.
        """
        for answer in answers:
            if answer.row.label is None:
                raise UserError(
                    f"{answer.row.image}: --evaluate needs the image's true class: put the image into a folder named "
                    "after its class, or pass --label-column for a table"
                )
            if answer.top:
                true = name_class(answer.row.label, self._aliases)
                self._predictions.append(Prediction(true, *answer.top[0]))
                self._images.append(answer.row.image)
            yield answer

    def analyze(self, classes: Sequence[str], new: Collection[str] = ()) -> ErrorAnalysis:
        """Return the errors. `new` are the classes that the previous champion did not have.

        An image whose true class the model does not have counts as wrong. Raises `UserError` if the model has none of
        the true classes, because the folders are then not named after classes.
        """
        named = {prediction.true for prediction in self._predictions}
        if named and not named & set(classes):
            raise UserError(
                f"--evaluate: none of the true classes is a class of the model: {name_some(named)}. Its classes are "
                f"{name_some(classes)}. Name the folders after the classes, or pass --label-column for a table"
            )
        return analyse_errors(self._predictions, classes, lambda number: SampleView(self._images[number]), new)
