"""Start a step in several processes on this machine, as torchrun does. If a process fails, exit with its exit code.

Each process is `python -m retrain.kubeflow.steps STEP TASK RUN DEVICE`.
"""

import os
import sys
from uuid import uuid4

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from retrain.training.preemption import Preempted
from retrain.utils.processes import available_cores


def launch(processes: int, *arguments: str) -> None:
    """Run a step in several processes that discover each other (torchrun's `--standalone`) and share the cores.

    Forwards SIGTERM to the processes, and then raises `Preempted`. Raises `SystemExit` with the exit code of the
    process that failed first.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,  # the pipeline step is retried instead
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // processes)))
    try:
        elastic_launch(config, sys.executable)("-m", "retrain.kubeflow.steps", *arguments)
    except SignalException as signalled:
        raise Preempted from signalled
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        raise SystemExit(first.exitcode if first.exitcode > 0 else 128 - first.exitcode) from failed
