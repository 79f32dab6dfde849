"""The context of the stages that plan and record runs. Imports no torch.

The watcher, a pod that submits runs, and a pod that only records runs use it. `Context` in `context.py` adds a device,
and can also train and evaluate.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from retrain.store.runs import RunFiles
from retrain.store.task_store import TaskStore
from retrain.utils.clock import Clock, utc_now


@dataclass(frozen=True)
class RecordContext:
    """The context of the stages that plan and record runs. One object serves all runs of a process."""

    store: TaskStore
    clock: Clock = field(default=utc_now, kw_only=True)
    """Function that returns the current time. The time decides whether an approval has expired."""
    stage_seconds: defaultdict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict), kw_only=True)
    """Seconds that each stage of a run took in this process, by run id."""
    factories: frozenset[str] = field(default=frozenset(), kw_only=True)
    """Network factories that the task file names, as `package.module:factory`. A stored plan with another factory is
    refused."""

    @contextmanager
    def timed(self, run_id: str, stage: str) -> Iterator[None]:
        """Add the time of the body to the seconds of a run's stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            taken = self.stage_seconds[run_id]
            taken[stage] = taken.get(stage, 0.0) + time.monotonic() - started

    def files(self, run_id: str) -> RunFiles:
        """Return a run's files."""
        return self.store.run(run_id)
