"""Keep image classifiers up to date for a fraction of the compute.

`__all__` lists the Python API. Each name is imported when it is first used (PEP 562): `import retrain` and
`retrain --help` are fast. docs/architecture.md lists the packages in layers. A package imports only lower layers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrain.api import ledger, ledger_frame, load_champion, load_run, run
    from retrain.config.loading import load_task
    from retrain.config.task import Task
    from retrain.errors import ImageError, UserError
    from retrain.inference.model import Model, Predictions
    from retrain.records import RunRecord

__version__ = "0.2.0"

__all__ = [
    "ImageError",
    "Model",
    "Predictions",
    "RunRecord",
    "Task",
    "UserError",
    "ledger",
    "ledger_frame",
    "load_champion",
    "load_run",
    "load_task",
    "run",
]

_MODULES = {
    "ImageError": "retrain.errors",
    "Model": "retrain.inference.model",
    "Predictions": "retrain.inference.model",
    "RunRecord": "retrain.records",
    "Task": "retrain.config.task",
    "UserError": "retrain.errors",
    "load_task": "retrain.config.loading",
}
"""Module of each name of the API that `retrain.api` does not define."""


def __getattr__(name: str) -> Any:
    """Import a name of the API from its module, and return it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "retrain.api")), name)


def __dir__() -> list[str]:
    """Return the names of the API and of this module."""
    return sorted([*globals(), *__all__])
