"""Several processes on one machine or many: the first does the stages, the others take part in its trainings."""

from collections.abc import Iterator
from contextlib import contextmanager

from retrain.attempt import follow
from retrain.context import Context


@contextmanager
def leading(context: Context) -> Iterator[Context]:
    """Yield the context to the first process, or to the only one; any other helps it train inside, and ends here.

    Raises `SystemExit` in the others once the first one has come to the end, and `Preempted` if it was cut short.
    """
    if context.ranks.rank:
        follow(context)
        raise SystemExit
    try:
        yield context
    finally:
        context.ranks.announce("")
