"""Programs that Debian has and tests run."""

import os
import shutil
import sys

import pytest


def need(command: str, package: str) -> str:
    """Return the path of a program. Without it the test is skipped, saying what to install; on CI it fails."""
    path = shutil.which(command)
    if path is None:
        message = f"{command} is not installed: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def python_environment(**variables: str) -> dict[str, str]:
    """Return the environment of a Python subprocess that can import all modules that this process can, tests too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
