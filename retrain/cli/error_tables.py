"""Tables of a model's errors: worst classes, confusions and mistakes."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from retrain.cli.formatting import Column, format_percent, grid
from retrain.records import ClassFigures, Confusion, ErrorAnalysis, Mistake
from retrain.utils.text import pluralize

CLASSES, CONFUSIONS, MISTAKES = 20, 10, 10
"""Largest numbers of rows of the tables. The run's `errors.json` and the report have more."""

CLASS_COLUMNS = (
    Column("class", lambda one: f"{one.name} (new)" if one.is_new else one.name, "left"),
    Column("images", lambda one: f"{one.samples:,}"),
    Column("accuracy", lambda one: format_percent(one.recall)),
    Column("precision", lambda one: format_percent(one.precision)),
    Column("predictions", lambda one: f"{one.predicted:,}", only_wide=True),
)
CONFUSION_COLUMNS = (
    Column("true", lambda one: one.true, "left"),
    Column("predicted", lambda one: one.predicted, "left"),
    Column("images", lambda one: f"{one.count:,}"),
)
MISTAKE_COLUMNS = (
    Column("true", lambda one: one.true, "left"),
    Column("predicted", lambda one: one.predicted, "left"),
    Column("probability", lambda one: format_percent(one.probability)),
    Column("image", lambda one: one.where, "left"),
)


def error_tables(errors: ErrorAnalysis) -> Iterator[str | Table]:
    """Yield the tables: the worst classes, the most frequent confusions, the most confident mistakes."""
    yield summarize_errors(errors)
    yield grid(CLASS_COLUMNS, worst_classes(errors, CLASSES))
    if errors.confusions:
        confusions: Sequence[Confusion] = errors.confusions[:CONFUSIONS]
        yield ""
        yield grid(CONFUSION_COLUMNS, confusions)
    if errors.mistakes:
        mistakes: Sequence[Mistake] = errors.mistakes[:MISTAKES]
        table = grid(MISTAKE_COLUMNS, mistakes)
        path = table.columns[-1]  # users open the image, so its path must be complete
        path.no_wrap, path.overflow = False, "fold"
        yield ""
        yield table


def summarize_errors(errors: ErrorAnalysis) -> str:
    """Return a sentence with the accuracy over all images, over old classes and over new classes."""
    text = f"{errors.accuracy:.2%} of {pluralize(errors.samples, 'image')} classified correctly"
    old, new = errors.accuracy_of(new=False), errors.accuracy_of(new=True)
    if old is not None and new is not None:
        text += f"; old classes {format_percent(old)}, new classes {format_percent(new)}"
    left = len(errors.classes) - CLASSES
    return f"{text}; the worst {CLASSES} of {len(errors.classes)} classes:" if left > 0 else f"{text}:"


def worst_classes(errors: ErrorAnalysis, count: int) -> list[ClassFigures]:
    """Return the classes with the lowest accuracy, lowest first. Classes without images come last."""
    return sorted(errors.classes, key=lambda one: 2.0 if one.recall is None else one.recall)[:count]
