"""The report of a task as one HTML page: `render_page` draws what `read_sources` read from its store.

Needs the extra `report`, which brings altair and vl-convert-python.
"""

from retrain.utils.extras import require_extra

for package in ("altair", "vl_convert"):
    require_extra(package, "The report")

from retrain.monitoring.report.page import render_page
from retrain.monitoring.report.sources import Sources, read_sources

__all__ = ["Sources", "read_sources", "render_page"]
