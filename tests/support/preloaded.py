"""Start `python` and `retrain` quickly, in forks of a process that has already imported torch and kfp.

A program of `support.processes.preloaded_programs` runs this file as a script. The script imports nothing slow. It
sends its arguments, environment, folder and standard streams to the server, and the server forks. Then the script
passes signals on to the fork, and exits with the fork's exit code. Programs that the fork starts with `sys.executable`
are forks, too. Tests that look at a process's imports or child processes start a real process instead.

The server imports this file last. It then excludes all imported objects from garbage collection.
"""

import gc
import json
import os
import select
import signal
import socket
import sys

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """Run the command `sys.argv[3:]` at the server with the abstract socket address `sys.argv[1]`.

    `sys.argv[2]` is the path of the program `python`. The command uses it as `sys.executable`.
    """
    _, address, python, *arguments = sys.argv
    request = {"python": python, "arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(f"\0{address}")
        for number in SIGNALS:
            signal.signal(number, lambda received, _: line.send(bytes([received])))
        socket.send_fds(line, [b"\0"], [0, 1, 2])
        line.sendall(json.dumps(request).encode() + b"\n")
        status = int(line.makefile().readline())
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(listening: socket.socket, forks_at: str) -> None:
    """Fork for each command until the parent process has ended.

    Commands start their processes at the fork server with the address `forks_at`.
    """
    import multiprocessing

    from retrain.utils.processes import exit_with_parent
    from support.processes import fork_at

    exit_with_parent()
    fork_at(forks_at)
    multiprocessing.current_process().daemon = False  # a daemon cannot start processes
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        line, _ = listening.accept()
        with line:
            if os.fork() == 0:
                listening.close()
                _serve_client(line)


def _serve_client(line: socket.socket) -> None:
    """Run a client's command in a fork, and send the client its exit code. Kill the fork if the client ends first."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, *_ = socket.recv_fds(line, 1, 3)
    request = json.loads(line.makefile().readline())
    process = os.fork()
    if process == 0:
        line.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _run_python(**request)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(process)
    while ended not in select.select([line.fileno(), ended], [], [])[0]:
        received = line.recv(1)
        os.kill(process, received[0] if received else signal.SIGKILL)
        if not received:
            break
    _, status = os.waitpid(process, 0)
    try:
        line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    finally:
        os._exit(0)


def _run_python(python: str, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run Python with these arguments in this process, and then end the process."""
    import atexit
    import tempfile
    import threading
    import traceback

    from retrain.utils import processes
    from support.processes import Preloaded
    from support.writes import freeze_if_requested

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable, tempfile.tempdir = python, None
    processes.SPAWN = Preloaded()  # type: ignore[assignment]
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False, buffering=1 if os.isatty(1) else -1)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    code = 0
    try:
        freeze_if_requested()
        _interpret(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # as the end of an interpreter does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def _interpret(arguments: list[str]) -> None:
    """Run the program that the arguments of `python` name: a module, code, a file, or standard input."""
    import runpy

    sys.path[:0] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    arguments = arguments[arguments[0] == "-u" :]  # torchrun asks for output without a buffer
    match arguments:
        case ["-m", module, *_]:
            sys.argv = arguments[1:]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv = ["-c", *rest]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case ["-", *_]:
            sys.argv = arguments
            exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
        case [file, *_] if file.endswith(".py"):
            sys.argv = arguments
            runpy.run_path(file, run_name="__main__")
        case _:
            raise SystemExit(f"only python -m, -c, - and a file are served, not {arguments}")


if __name__ == "__main__":
    main()
elif "support.processes" not in sys.modules:  # imported by the server that forks, not by a test
    gc.collect()
    gc.freeze()  # otherwise each fork's first full collection visits 440,000 objects, for a quarter of a second
