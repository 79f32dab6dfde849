"""Errors meant for people: what is wrong, where, and what is allowed.

Every `UserError` ends the command with exit code 2 and its message alone, without a traceback.
"""


class UserError(Exception):
    """A mistake of the caller or of the data: the message says how to put it right."""


class TaskError(UserError):
    """The task file, or an override of it, is wrong."""


class DropError(UserError):
    """A drop's source, shards or manifest are wrong; nothing was committed."""


class DamagedDrop(DropError):
    """A committed drop cannot be used any more; it belongs in quarantine."""

    def __init__(self, drop: str, cause: str) -> None:
        super().__init__(drop, cause)
        self.drop = drop
        """Its id."""

    def __str__(self) -> str:
        cause: str = self.args[1]
        return cause


class StoreError(UserError):
    """The store cannot be reached, or refuses what was asked of it."""


class ModelError(UserError):
    """The named model cannot be built, or does not fit the weights it is given."""


class ImageError(UserError):
    """An image to be predicted cannot be read."""


class RunError(UserError):
    """A run that was named does not exist, or cannot be used as asked."""


class StudyError(UserError):
    """A study's file is wrong, or something that it needs is not there."""


class SubmitError(UserError):
    """Kubeflow Pipelines cannot be reached, or refuses a run."""
