"""Errors that users can correct. Each message says what is wrong, where, and what to do.

After a `UserError`, a command prints the message without a traceback and exits with 2.
"""


class UserError(Exception):
    """A mistake in the arguments, settings, files or data. The message says how to correct it."""


class TaskError(UserError):
    """The task file, or an override of it, is wrong."""


class DropError(UserError):
    """A drop's source, shards or manifest are wrong. Nothing was committed."""


class DamagedDrop(DropError):
    """A committed drop is damaged and must be quarantined."""

    def __init__(self, drop: str, cause: str) -> None:
        super().__init__(drop, cause)
        self.drop = drop
        """The drop's id."""

    def __str__(self) -> str:
        cause: str = self.args[1]
        return cause


class StoreError(UserError):
    """The store cannot be reached, or refuses a request."""


class ModelError(UserError):
    """A network cannot be built, or does not match its weights."""


class ImageError(UserError):
    """An image for prediction cannot be read."""


class RunError(UserError):
    """A run does not exist, or cannot be used for the command."""


class StudyError(UserError):
    """A study's file is wrong, or its data or runs are missing."""


class SubmitError(UserError):
    """Kubeflow Pipelines cannot be reached, or refuses a run."""
