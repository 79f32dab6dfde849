"""Start processes as forks of a server that has already imported torch and kfp, and train in pairs of ranks.

A new process would need seconds for these imports.
"""

import atexit
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ForkServer
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import pytest
import torch
from torch.distributed import TCPStore

from retrain.pipeline.context import Context
from retrain.pipeline.train import run_as_leader, train_plan
from retrain.records import Plan
from retrain.training.distributed import init_distributed
from support import preloaded
from support.trainings import context_of

SIZE = 2
"""Number of ranks of a `Pair`."""
TESTS = str(Path(__file__).parents[1])
SERVER = multiprocessing.forkserver._forkserver
STARTING = Lock()
PRELOADED = [
    "pytest",  # imported by tests/support
    "retrain.cli",
    "retrain.pipeline.train",
    "retrain.kubeflow.steps",
    "retrain.kubeflow.client",
    "retrain.pipelines.definition",
    "retrain.store.s3.store",
    "retrain.watcher.task_watch",
    "torch._dynamo",  # imported by the first step of an optimizer
    "tabulate",  # imported by torch._dynamo when a process ends
    "support.preloaded",  # must be last: it ends with `gc.freeze`
]


def forkserver() -> ForkServerContext:
    """Return the multiprocessing context whose fork server has imported `PRELOADED`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _ensure_running() -> None:
    """Start the server if it does not run yet. Its `PYTHONPATH` has `tests/`, because it also imports `support`."""
    with STARTING, pytest.MonkeyPatch.context() as environment:
        if SERVER._forkserver_pid is None:
            environment.setenv("PYTHONPATH", TESTS, prepend=os.pathsep)
        ForkServer.ensure_running(SERVER)


SERVER.ensure_running = _ensure_running


class Preloaded(ForkServerContext):
    """A context that replaces `SPAWN` of `run_in_subprocess`.

    Its processes have imported `PRELOADED` and get the caller's environment.
    """

    def __init__(self) -> None:
        forkserver()

    @staticmethod
    def Process(  # type: ignore[override]
        target: Callable[..., None], args: tuple[object, ...], daemon: bool | None = None
    ) -> ForkServerProcess:
        """Return a new process, not yet started."""
        return ForkServerProcess(target=_in_environment, args=(dict(os.environ), target, args), daemon=daemon)


def _in_environment(environment: dict[str, str], target: Callable[..., None], arguments: tuple[object, ...]) -> None:
    """Call the target with this environment and number of torch threads.

    Without this, a fork has the server's values.
    """
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    target(*arguments)


class ForkedCommand:
    """A Python module that runs in a fork. `poll` and `communicate` work as in `subprocess.Popen`.

    The programs of `preloaded_programs` have a client process in between, and a forked command has none. It receives
    signals directly, and the processes that it starts are its children.
    """

    def __init__(self, module: str, *arguments: str, output: Path, environment: Mapping[str, str] = os.environ) -> None:
        self._output = output
        self._process = ForkServerProcess(
            target=_in_environment,
            args=(dict(environment), _run_module, (module, arguments, str(output))),
            daemon=True,  # ends with the tests
        )
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs."""
        return self._process.exitcode

    def communicate(self) -> str:
        """Wait until the command has ended, and return its standard output and standard error."""
        self._process.join()
        return self._output.read_text()


def _run_module(module: str, arguments: tuple[str, ...], output: str) -> None:
    """Run a module as `python -m` does."""
    multiprocessing.current_process().daemon = False  # daemons cannot start processes
    with open(output, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def fork_at(address: str) -> None:
    """Make this process use the fork server at `address`. Its own server would have to import everything again."""
    SERVER._forkserver_address, SERVER.ensure_running = address, lambda: None


@cache
def preloaded_programs() -> Path:
    """Return a folder with the programs `python` and `retrain`. They run in forks (see support/preloaded.py)."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-programs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("")  # Linux chooses an address without a file
        listening.listen(64)
        address = listening.getsockname()[1:].decode()
        context = forkserver()
        SERVER.ensure_running()
        forks_at = SERVER._forkserver_address
        context.Process(target=preloaded.serve, args=(listening, forks_at), daemon=True).start()
    for name, arguments in (("python", ""), ("retrain", "-m retrain ")):
        program = folder / name
        client = f"{sys.executable} -IS {preloaded.__file__} {address} {folder / 'python'}"
        program.write_text(f'#!/bin/sh\nexec {client} {arguments}"$@"\n')
        program.chmod(0o755)
    return folder


def preloaded_python() -> str:
    """Return the path of the program `python` that runs in a fork."""
    return str(preloaded_programs() / "python")


def preloaded_retrain() -> str:
    """Return the path of the program `retrain` that runs in a fork."""
    return str(preloaded_programs() / "retrain")


class Pair(NamedTuple):
    """Two ranks and their `TCPStore`. Normally torchrun's agent has this store."""

    members: list[ForkServerProcess]
    store: TCPStore

    def join(self) -> list[int | None]:
        """Wait for both ranks and return their exit codes."""
        for member in self.members:
            member.join()
        return [member.exitcode for member in self.members]


def start(target: Callable[..., None], *arguments: object) -> Pair:
    """Start `target(context, ...)` in two ranks. The first item of `arguments` is the folder of the context."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    members = [
        forkserver().Process(target=_member, args=(target, rank, store.port, *arguments)) for rank in range(SIZE)
    ]
    for member in members:
        member.start()
    return Pair(members, store)


def _member(target: Callable[..., None], rank: int, port: int, folder: Path, *arguments: object) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(SIZE),
        "LOCAL_WORLD_SIZE": str(SIZE),
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    context = replace(context_of(folder), ranks=init_distributed("cpu"))
    torch.set_num_threads(1)
    target(context, *arguments)


def train_together(context: Context, plan: Plan) -> None:
    """Train a plan. Both ranks call this function."""
    with run_as_leader(context):
        train_plan(context, plan)
