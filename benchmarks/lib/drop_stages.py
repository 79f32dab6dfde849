"""Measure the stages of one drop: in the watcher in this process, and in a pipeline of processes (`kfp-local`)."""

import io
import os
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import altair as alt
from retrain.pipelines.definition import define_locally

from retrain.config.task import Task
from retrain.data.local_cache import cache_folder
from retrain.data.uploads import ingest_drop
from retrain.experiments.chart_style import WIDE_PADDING, colour_of, finish_chart
from retrain.kubeflow.local import run_locally
from retrain.monitoring.exporter import Exporter, WatchedTask
from retrain.pipeline import next_run, recording, train
from retrain.pipeline.context import Context
from retrain.pipeline.executor import InProcessExecutor
from retrain.pipeline.planning import Request
from retrain.records import RunRecord
from retrain.store.champions import ChampionPointer
from retrain.store.task_store import TaskStore, open_task_store
from retrain.watcher import ingestion
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch

AROUND = "kfp, processes, imports"

STAGES: tuple[tuple[Any, str, str], ...] = (
    (TaskWatch, "check_drops", "notice"),
    (ingestion, "run_in_subprocess", "validate"),
    (TaskWatch, "advance", "claim, start"),
    (next_run, "plan_next_run", "plan"),
    (train, "train_plan", "read the parent, write the model"),
    (Context, "samples", "read, decode"),
    (train, "set_up", "set up"),
    (train, "run_loop", "train"),
    (train, "measure_train_accuracy", "train"),
    (recording, "_measure", "evaluate"),
    (recording, "decide", "judge"),
    (ChampionPointer, "swap", "promote"),
    (recording, "write_record", "record"),
)
"""Measured functions: the object that has the function, the function's name, and its stage. The time of the
stage `train` counts as the run's cost."""

PARTS = {
    "validate": ("validate",),
    "plan, claim, start": ("notice", "plan", "claim, start"),
    "read, decode, set up, write": ("read, decode", "set up", "read the parent, write the model"),
    "train": ("train",),
    "evaluate, judge, promote, record": ("evaluate", "judge", "promote", "record", "metrics"),
    "the pipeline's processes": ("all",),
}
"""Bars of the chart, each with its stages. For the pipeline's processes, only the total processor time is known."""


class Stopwatch:
    """A clock of wall and processor time for nested stages. The time of a stage excludes the stages inside it."""

    def __init__(self) -> None:
        self.wall, self.cpu = defaultdict[str, float](float), defaultdict[str, float](float)
        self._outer: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time within the context to this stage, and subtract it from the enclosing stage."""
        wall, cpu = time.perf_counter(), processor_seconds()
        self._outer.append(name)
        try:
            yield
        finally:
            self._outer.pop()
            wall, cpu = time.perf_counter() - wall, processor_seconds() - cpu
            self._add(name, wall, cpu)
            if self._outer:
                self._add(self._outer[-1], -wall, -cpu)

    def _add(self, name: str, wall: float, cpu: float) -> None:
        self.wall[name] += wall
        self.cpu[name] += cpu

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return the function with its time added to a stage."""

        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*args, **options)

        return call


def processor_seconds() -> float:
    """Return the processor time of this process and of its subprocesses that have ended."""
    return sum(os.times()[:4])


def upload(store: TaskStore, drop: str, images: list[Path]) -> None:
    """Upload one shard and `_SUCCESS`, as a producer does."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in images:
            for extension, data in (("png", path.read_bytes()), ("cls", path.parent.name.encode())):
                info = tarfile.TarInfo(f"{path.parent.name}-{path.stem}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    store.objects.write(store.keys.drop_file(drop, "train-000000.tar"), buffer.getvalue())
    store.objects.write(store.keys.drop_file(drop, "_SUCCESS"), b"")


def time_in_process(task: Task, images: list[Path]) -> dict[str, object]:
    """Retrain on a second drop in this process. Return the times from the drop's upload to the run's metrics."""
    store, clock = open_task_store(task), Stopwatch()
    watch = TaskWatch(task, InProcessExecutor("cpu"), Health([task.name]), cache_dir=cache_folder())
    with ExitStack() as patches:
        for drop in (0, 1):
            upload(store, f"drop-{drop}", images[drop::2])
            if drop:
                for owner, function, name in STAGES:
                    patches.enter_context(patch.object(owner, function, clock.timed(getattr(owner, function), name)))
            watch.check_drops()
            watch.advance()
    with clock.stage("metrics"):
        Exporter([WatchedTask(store)]).refresh()
    return figures(store, clock.wall, clock.cpu)


def time_in_kfp_local(task: Task, images: list[Path]) -> dict[str, object]:
    """Run the pipeline in processes after each of two drops.

    Return the times of the second run, including the overhead.
    """
    store = open_task_store(task)
    for drop in (0, 1):
        upload(store, f"drop-{drop}", images[drop::2])
        ingest_drop(f"drop-{drop}", task, store)
        wall, cpu = time.perf_counter(), processor_seconds()
        ended = run_locally(task, Request(), "cpu", define_locally)
        wall, cpu = time.perf_counter() - wall, processor_seconds() - cpu
    if not isinstance(ended, RunRecord) or ended.result is None:
        raise RuntimeError(f"the pipeline ended without a result: {ended}")
    spent = dict(ended.stage_seconds)
    spent[AROUND] = wall - sum(spent.values())
    spent["read the parent, write the model"] = spent["train"] - ended.result.cost.device_seconds_all_in
    spent["train"] = ended.result.cost.device_seconds_all_in
    return figures(store, spent, {"all": cpu})


def figures(store: TaskStore, wall: Mapping[str, float], cpu: Mapping[str, float]) -> dict[str, object]:
    """Return the seconds of each stage, the training's share of the wall time, and the runs.

    Raises `RuntimeError` unless the second run retrained the champion of the first.
    """
    seconds, runs = sum(wall.values()), [(record.method, record.outcome) for record in store.ledger.read()]
    if [method for method, _ in runs] != ["scratch", "continuous"]:
        raise RuntimeError(f"expected a scratch run and then a continuous one, got {runs}")
    return {
        "wall, s": {name: round(spent, 3) for name, spent in wall.items()},
        "cpu, s": {name: round(spent, 3) for name, spent in cpu.items()},
        "wall in all, s": round(seconds, 2),
        "cpu in all, s": round(sum(cpu.values()), 2),
        "training's share": round(wall["train"] / seconds, 3),
        "runs": runs,
    }


def added_by_kfp(here: Mapping[str, Any], in_kfp: Mapping[str, Any]) -> float:
    """Return the processor time that the pipeline takes beyond the same stages in one process, in seconds.

    Validation is left out, because it comes before the pipeline.
    """
    same_stages = here["cpu in all, s"] - here["cpu, s"]["validate"]
    return float(round(in_kfp["cpu in all, s"] - same_stages, 2))


def draw(taken: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw a bar of processor time for each way to process a drop. Its sections are the groups of stages in `PARTS`."""
    rows = [
        {"way": way, "method": part, "seconds": sum(figures["cpu, s"].get(stage, 0) for stage in PARTS[part]), "at": at}
        for way, figures in taken.items()
        for at, part in enumerate(PARTS)
    ]
    bars = alt.Chart(alt.InlineData(values=rows)).mark_bar(height=22)
    x = alt.X("seconds:Q", title="seconds of processor time", axis=alt.Axis(grid=False))
    y = alt.Y("way:N", title=None, sort=list(taken), axis=alt.Axis(labelLimit=0))
    colour = colour_of(list(PARTS)).legend(title=None, symbolType="square", symbolStrokeWidth=0)
    drawn = bars.encode(x=x, y=y, color=colour, order=alt.Order("at:O"))
    sized = drawn.properties(width=460, height=40 * len(taken), padding=WIDE_PADDING)
    finish_chart(sized).save(str(path))
