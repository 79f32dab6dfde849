"""The champion's errors: its worst classes, a confusion matrix, and the most confident mistakes."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from retrain.monitoring.report.charts import Chart, Row, table
from retrain.records import ClassFigures, ErrorAnalysis

CLASSES = 30
"""Largest number of classes in the table of the lowest accuracies."""
MATRIX = 20
"""Largest number of classes in the confusion matrix. It shows the classes with the most errors. More classes would be
unreadable."""


def worst_classes(errors: ErrorAnalysis) -> list[ClassFigures]:
    """Return the classes with the lowest accuracy on their images, lowest first."""
    with_images = [one for one in errors.classes if one.samples]
    return sorted(with_images, key=lambda one: one.correct / one.samples)[:CLASSES]


def matrix_classes(errors: ErrorAnalysis) -> list[str]:
    """Return the classes that the matrix shows, in the order of the logits: all, or those with the most errors."""
    return errors.most_wrong(MATRIX)


LABEL_LIMIT, CHARACTER = 140, 8
"""Largest width in pixels of a class name next to the matrix, and the width of a wide character."""


def matrix_rows(errors: ErrorAnalysis) -> list[Row]:
    """Return a row for each pair of true and predicted class with at least one image.

    `share` is the pair's share of the true class's images.
    """
    shown = set(matrix_classes(errors))
    samples = {one.name: one.samples for one in errors.classes}
    right = [(one.name, one.name, one.correct) for one in errors.classes]
    wrong = [(one.true, one.predicted, one.count) for one in errors.confusions]
    return [
        _row(true, predicted, count, samples[true])
        for true, predicted, count in right + wrong
        if {true, predicted} <= shown
    ]


def _row(true: str, predicted: str, count: int, samples: int) -> dict[str, Any]:
    share = count / samples if samples else 0.0
    label = f"{count:,} of {samples:,} images of {true} are classified as {predicted}"
    return {"true": true, "predicted": predicted, "share": share, "label": label}


def matrix_chart(errors: ErrorAnalysis) -> Chart:
    """Draw the confusion matrix: rows are true classes, columns are predicted classes.

    The axes have no titles, because the caption names the axes. Long class names could also overlap titles, if the
    browser's font is wider than the font with which the chart is laid out.
    """
    order: Sequence[str] = matrix_classes(errors)
    space = min(LABEL_LIMIT, CHARACTER * max((len(name) for name in order), default=0))
    axis = alt.Axis(grid=False, labelLimit=LABEL_LIMIT, labelOverlap=True, minExtent=space)
    rows = alt.Y("true:N", sort=list(order), title=None, axis=axis)
    columns = alt.X("predicted:N", sort=list(order), title=None, axis=axis)
    cells: alt.Chart = table(matrix_rows(errors)).mark_rect(color="var(--primary)", stroke="var(--line)")
    opacity = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 1]), legend=None)
    return cells.encode(x=columns, y=rows, opacity=opacity, description="label:N")
