"""The page: what continual retraining saved on one task, in one HTML file that asks for nothing from outside."""

from retrain.observe.report.page import render
from retrain.observe.report.sources import Sources, gather

__all__ = ["Sources", "gather", "render"]
