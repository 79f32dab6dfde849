"""Processes that leave with the one that started them, even where that was killed: alone, they would go on for ever."""

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from threading import Thread


def leave_with_parent() -> None:
    """End this process, which `multiprocessing` has started, as soon as its parent has ended."""
    Thread(target=_leave_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _leave_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
