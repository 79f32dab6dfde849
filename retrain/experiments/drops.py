"""The drops of a study: subsets of its data sets, packed and committed split by split."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from retrain.config.task import Task
from retrain.data.packing import pack
from retrain.data.source import read_source
from retrain.data.staging import Staging, stable_hash
from retrain.errors import StudyError
from retrain.experiments.component import by_component, scores_of
from retrain.experiments.datasets import find_data_set
from retrain.experiments.settings import Data, Split, Study
from retrain.experiments.subsets import (
    Order,
    hold_out,
    in_steps,
    rename_to_superclasses,
    thin,
    two_parts,
    write_folder,
)
from retrain.records import Drop
from retrain.store.base import ObjectStore
from retrain.store.task_store import TaskStore


class DataRoot(NamedTuple):
    """The folder of the data sets, and whether missing data sets may be downloaded."""

    folder: Path
    download: bool = False


def committed_drops(study: Study, split: str, task: Task, objects: ObjectStore) -> tuple[Drop, ...] | None:
    """Return a split's committed drops in order, or None if a drop is missing.

    In a split by margin, later drops depend on runs. Only the first drop must then exist.
    """
    drops = TaskStore(objects, task.name).drops.all()
    beforehand = 1 if study.splits[split].by == "margin" else study.count_drops(split)
    return drops if len(drops) >= beforehand else None


def commit_drops(study: Study, split: str, task: Task, objects: ObjectStore, root: DataRoot) -> tuple[Drop, ...]:
    """Commit the split's missing drops that depend on no run, and return all its drops in order.

    Raises `StudyError` if a data set is missing, and `DropError` if the split's sizes do not fit it.
    """
    if drops := committed_drops(study, split, task, objects):
        return drops
    with prepared_data(study, root, task) as (sources, folder):
        for number, (source, staging, part) in enumerate(_parts(study, split, task, sources, folder), 1):
            pack(source, task, TaskStore(objects, task.name), staging=staging, part=part, drop_id=f"drop-{number}")
    return TaskStore(objects, task.name).drops.all()


def draw_of(study: Study, task: Task) -> int:
    """Return the seed of a study's splits: the task's seed, or 0 if all seeds share one split."""
    return task.seed if study.redraw else 0


@contextmanager
def prepared_data(study: Study, root: DataRoot, task: Task) -> Iterator[tuple[list[Path], Path]]:
    """Yield a study's data sets as sources, with the study's changes, and a folder for temporary files.

    Raises `StudyError` if a data set is missing.
    """
    with tempfile.TemporaryDirectory(prefix="retrain-study-") as temporary:
        folder = Path(temporary)
        yield [_prepare(study, data, root, task, folder / str(n)) for n, data in enumerate(study.data)], folder


def _parts(
    study: Study, split: str, task: Task, sources: list[Path], folder: Path
) -> Iterator[tuple[Path, Staging | None, int | None]]:
    """Yield each drop's source, the division of the source, and the number of the part. None: the full source."""
    setting, seed = study.splits[split], draw_of(study, task)
    if len(sources) > 1 and setting.by not in ("source", "transfer"):
        raise StudyError(
            f"study {study.name}: split {split}: the study has {len(sources)} data sets: set `by: source` or "
            "`by: transfer`"
        )
    if setting.step:
        yield from ((part, None, None) for part in _steps(setting, seed, sources[0], folder / "steps"))
        return
    match setting.by:
        case "classes" | "share" as by:
            staging = Staging.parse(by, setting.sizes, seed)
            yield from ((sources[0], staging, part) for part in range(1, len(staging.sizes) + 1))
        case "component":
            yield from ((part, None, None) for part in by_component(sources[0], setting.sizes, folder / "components"))
        case "source":
            yield from ((source, None, None) for source in sources)
        case "transfer":
            yield from ((part, None, None) for part in two_parts(sources, setting, folder / "parts", seed))
        case "margin":
            yield sources[0], Staging.parse("share", setting.sizes, seed), 1


def _steps(setting: Split, seed: int, source: Path, folder: Path) -> Iterator[Path]:
    """Write the drops of a split that sets `step`: all of them, or only the first for a split by margin."""
    samples = read_source(source)
    order: Order = lambda sample: stable_hash(sample.key, seed)  # noqa: E731
    if setting.by == "component":
        scores = dict(zip(samples, scores_of(samples).tolist(), strict=True))
        order = scores.__getitem__
    for number, part in enumerate(in_steps(samples, setting, order)[: 1 if setting.by == "margin" else None]):
        write_folder(part, folder / str(number))
        yield folder / str(number)


def _prepare(study: Study, data: Data, root: DataRoot, task: Task, folder: Path) -> Path:
    """Return a data set as a source, unchanged or as a changed copy."""
    source = find_data_set(data.name, root.folder, root.download, folder / "found")
    draws_val = study.stop_on == "val" and (study.redraw or any(split.step for split in study.splits.values()))
    if study.stop_on == "val" and data == Data(name=data.name) and not draws_val:
        return source
    found = read_source(source)
    samples = list(thin(rename_to_superclasses(found) if data.superclasses else found, data))
    if study.stop_on == "test" and not any(sample.split == "test" for sample in samples):
        raise StudyError(f"data set {data.name} has no test split to stop on: set stop_on: val")
    if draws_val:
        samples = list(hold_out(samples, task.data.val_share, draw_of(study, task)))
    write_folder(samples, folder / "source", data.twin)
    if study.stop_on == "test":
        shutil.rmtree(folder / "source" / "val", ignore_errors=True)
        shutil.copytree(folder / "source" / "test", folder / "source" / "val")
    return folder / "source"
