"""Drops that ended with `_SUCCESS`: committed, or put into quarantine. Done in a process apart (see `apart`)."""

from retrain.config import Task
from retrain.data.quarantine import quarantine
from retrain.errors import DropError
from retrain.layout import Layout
from retrain.store import open_store


def take_in(task: Task, drop: str) -> str | None:
    """Commit a drop; return why it was put into quarantine instead, or None. Raises `StoreError`."""
    from retrain.data.adopting import adopt  # brings torch, which must not come to where this is only named

    store = open_store(task.store, task.endpoint_url)
    try:
        adopt(drop, task, store)
    except DropError as error:
        quarantine(store, Layout(task.name), drop, str(error))
        return str(error)
    return None
