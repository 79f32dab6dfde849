"""Where a run's decoded samples are to be: held, or streamed."""

from retrain.config import Task
from retrain.quantities import bytes_of, said
from retrain.records import Dataset, Loading


def decoded_bytes(samples: int, image_size: int) -> int:
    """Return how many bytes so many samples are as uint8 [3, image_size, image_size]."""
    return samples * 3 * image_size**2


def choose(task: Task, dataset: Dataset) -> Loading:
    """Return what the task asks for; if it leaves the choice, by how large its training samples are decoded.

    The same on every machine: an interrupted run goes on elsewhere, and streaming changes the order of the samples.
    """
    decoded, memory = decoded_bytes(dataset.samples, task.data.image_size), bytes_of(task.resources.memory)
    size = f"{dataset.samples:,} training samples are {said(decoded)} decoded"
    if task.data.loader != "auto":
        return Loading(kind=task.data.loader, reason=f"{size}; data.loader says so")
    if 2 * decoded > memory:
        return Loading(kind="stream", reason=f"{size}, more than half of resources.memory, {task.resources.memory}")
    return Loading(kind="held", reason=f"{size}, within half of resources.memory, {task.resources.memory}")
