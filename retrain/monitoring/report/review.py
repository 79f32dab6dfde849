"""The page of samples that a person should look at: likely label errors, near-duplicates, odd images."""

from markupsafe import Markup

from retrain import __version__
from retrain.monitoring.report.page import make_environment
from retrain.monitoring.web import content_policy, style_sheet
from retrain.pipeline.review import Review

LISTED = 200
"""Near-duplicates and odd images that the page lists."""


def render_review(task: str, review: Review) -> str:
    """Return the page as HTML, which holds no script and asks for nothing from outside."""
    return (
        make_environment()
        .get_template("review.html")
        .render(
            task=task,
            review=review,
            listed=LISTED,
            version=__version__,
            style=Markup(style_sheet()),
            content_policy=content_policy(),
        )
    )
