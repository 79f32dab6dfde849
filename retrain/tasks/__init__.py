"""Task files: found by name or path, overridden from the command line, checked, explained, and started from nothing."""

from retrain.tasks.files import load_task, parse_task
from retrain.tasks.starter import schema, starter

__all__ = ["load_task", "parse_task", "schema", "starter"]
