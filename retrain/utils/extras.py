"""Optional packages: the extra that installs each, and the error if it is missing.

The core installs and runs without these packages. This module imports a package at its first use, so commands that do
not need the package start faster.
"""

import importlib
import importlib.util
from typing import Any

from retrain.errors import UserError

DISTRIBUTION = "retrain-classifiers"
"""The distribution's name on PyPI. There, `retrain` is another project."""

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
"""The extra that installs a package, by the package's import name."""


def import_extra(module: str, purpose: str) -> Any:
    """Import a module of an extra. Raises `UserError`, with the command that installs it, if it is missing."""
    require_extra(module, purpose)
    return importlib.import_module(module)


def has_torch() -> bool:
    """Return whether torch is installed. The container image of the watcher has no torch."""
    return importlib.util.find_spec("torch") is not None


def require_extra(module: str, purpose: str) -> None:
    """Raise `UserError`, with the command that installs it, if a module of an extra is missing.

    `purpose` begins the message: "The report".
    """
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{purpose} needs {install_command(package)}")


def install_command(package: str) -> str:
    """Return a package of an extra with the command that installs it."""
    return f"{package}: pip install '{DISTRIBUTION}[{EXTRA_OF[package]}]'"
