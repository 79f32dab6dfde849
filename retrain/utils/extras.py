"""Packages that come with an extra of the distribution, and what to install where they are missing.

The core installs and runs without them. What needs one asks for it here when it is used, so that no other command
waits for its import.
"""

import importlib
import importlib.util
from typing import Any

from retrain.errors import UserError

DISTRIBUTION = "retrain-classifiers"
"""Its name on PyPI, where `retrain` is another project."""

EXTRA_OF = {
    "kfp": "kfp",
    "mlflow": "mlflow",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "pandas": "tables",
    "pyarrow": "tables",
    "ruamel": "migrate",
    "starlette": "serve",
    "tensorboard": "tensorboard",
    "uvicorn": "serve",
}
"""The extra that brings a package, by the package's import name."""


def import_extra(module: str, purpose: str) -> Any:
    """Import a module that comes with an extra. Raises `UserError`, which says what to install, if it is not there."""
    require_extra(module, purpose)
    return importlib.import_module(module)


def has_torch() -> bool:
    """Return whether torch is installed. The image of watcher and exporter has none."""
    return importlib.util.find_spec("torch") is not None


def require_extra(module: str, purpose: str) -> None:
    """Raise `UserError`, which says what to install, if a module that comes with an extra is not there.

    `purpose` begins the message: "The report".
    """
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        extra = EXTRA_OF[package]
        raise UserError(f"{purpose} needs {package}: pip install '{DISTRIBUTION}[{extra}]'")
