"""Compare predictions with true classes, as they pass by."""

from collections.abc import Iterable, Iterator, Sequence

from retrain.errors import UserError
from retrain.inference.batch import Answer
from retrain.pipeline.error_analysis import Described, Judged, analyse_errors
from retrain.records import ErrorAnalysis


class Judging:
    """Keeps what a model says of each image beside its true class."""

    def __init__(self) -> None:
        self._judged: list[Judged] = []
        self._images: list[str] = []

    def watch(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """Pass answers on, and keep those of images that could be read. Raises `UserError` where a label is missing."""
        for answer in answers:
            if answer.row.label is None:
                raise UserError(
                    f"{answer.row.image}: its true class is not known, and --evaluate needs it: name folders after "
                    "classes, or a table's column with --label-column"
                )
            if answer.top:
                self._judged.append(Judged(answer.row.label, *answer.top[0]))
                self._images.append(answer.row.image)
            yield answer

    def analyse(self, classes: Sequence[str]) -> ErrorAnalysis:
        """Return what is wrong; classes that the model does not know are always wrong."""
        return analyse_errors(self._judged, classes, lambda number: Described(self._images[number]))
