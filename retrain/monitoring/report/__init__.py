"""The report of a task as one HTML page: `read_sources` reads the store, `render_page` renders the page.

Needs the extra `report`: altair and vl-convert-python.
"""

from importlib.util import find_spec

from retrain.errors import UserError

if find_spec("altair") is None or find_spec("vl_convert") is None:
    raise UserError("The report needs altair and vl-convert-python: pip install 'retrain-classifiers[report]'")

from retrain.monitoring.report.page import render_page
from retrain.monitoring.report.sources import ReportData, read_sources

__all__ = ["ReportData", "read_sources", "render_page"]
