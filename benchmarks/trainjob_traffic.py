"""Count the bytes that one of 64 processes of a TrainJob sends in a step, and calculate the traffic of the whole job.

One process runs this project's own step on this CPU with few images, as if it were one of 64 processes. Torch's process
group `fake` accepts every collective operation and sends nothing. The benchmark counts the bytes of the gradients that
DistributedDataParallel would all-reduce, and the bytes of all other all-reduces: the requests to save or stop, and the
counters of the batch. It also measures the size of a checkpoint. All other results are calculated. In a ring
all-reduce, each process sends 2 (N - 1) / N times its bytes. Every node reads every shard, because the rows of a batch
come from all shards that are shuffled together.
"""

from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from lib.noise import Case, noise, plan_of
from lib.report import parser, report
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from retrain.config.task import Model, Training
from retrain.training.distributed import TorchrunGroup
from retrain.training.loop import train_step
from retrain.training.setup import Run, set_up
from retrain.training.state import save_state

RANKS, NODES = 64, 8
IMAGES, IMAGE_BYTES = 1_281_167, 110_000
"""ImageNet's number of training images, and the mean size of a file."""
ROWS = 2
"""Images of a batch in each process here. More images would only change the bytes of the counters."""
GPU_ROWS, IMAGES_A_SECOND = 64, 1_250
"""Rows of a batch on a GPU, and an assumed speed. Both are used in the calculation."""
SAMPLES = 2 * RANKS * ROWS


class FakeGroup(TorchrunGroup):
    """One process of a group whose other processes do not exist."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


class AllReduces:
    """A counter of the bytes that this process passes to all-reduces."""

    def __init__(self) -> None:
        self.gradients, self.others = 0, 0
        self._all_reduce = dist.all_reduce

    def count_bucket(
        self,
        state: object,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[torch.Tensor]:
        """Count the bytes of a bucket of gradients, and return the bucket unchanged."""
        self.gradients += bucket.buffer().nbytes
        done = torch.futures.Future[torch.Tensor]()
        done.set_result(bucket.buffer())
        return done

    def count_other(self, tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        """Count the bytes of an all-reduce that this project starts, and return its result."""
        self.others += tensor.nbytes
        return self._all_reduce(tensor, *arguments, **options)


def process_of(model: Model, image_size: int) -> Run:
    """Return the run of the first process."""
    training = Training(save_seconds=1e9, batch_size=RANKS * ROWS)
    plan = plan_of(Case(64, image_size), "scratch", SAMPLES, 1_000, training)
    plan = plan.model_copy(update={"task": plan.task.model_copy(update={"model": model})})
    return set_up(plan, noise(image_size, SAMPLES), noise(image_size, 100), None, FakeGroup(0, RANKS))


def measure(model: Model, image_size: int) -> dict[str, object]:
    """Return the bytes of a step, and the bytes in a job of 64 GPUs."""
    run, counted = process_of(model, image_size), AllReduces()
    run.forward = replica = DistributedDataParallel(run.network, forward_sync_buffers=False)
    replica.register_comm_hook(None, counted.count_bucket)
    with patch.object(dist, "all_reduce", counted.count_other):
        read_votes = run.ranks.any_rank(lambda: (False, False))
        train_step(run)
        read_votes()
    state = len(save_state(run)) - 8 * SAMPLES
    votes, columns = 2, counted.others - 2
    batch = columns // (RANKS * ROWS) * RANKS * GPU_ROWS
    step = GPU_ROWS / IMAGES_A_SECOND
    sent = 2 * (RANKS - 1) / RANKS * (counted.gradients + batch + votes)
    return {
        "model": model.name,
        "image size": image_size,
        "parameters": sum(parameter.numel() for parameter in run.network.parameters()),
        "gradients, bytes a step": counted.gradients,
        "counters, bytes an image": columns / (RANKS * ROWS),
        "votes, bytes a step": votes,
        "state without the index, bytes": state,
        "64 GPUs: each sends, MB a step": round(sent / 1e6, 1),
        "64 GPUs: each sends without pause at that speed, Gbit a second": round(8e-9 * sent / step, 1),
        "64 GPUs: state with the index of ImageNet, MB": round((state + 8 * IMAGES) / 1e6, 1),
    }


def main() -> None:
    """Count for two networks."""
    chosen = parser(__doc__).parse_args()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    networks = [(Model(name="resnet18"), 32), (Model(name="resnet50"), 64)]
    report(
        {
            "processes": RANKS,
            "networks": [measure(model, image_size) for model, image_size in networks],
            "shards read from the store by all nodes, GB": round(NODES * IMAGES * IMAGE_BYTES / 1e9),
        },
        chosen.output,
    )


if __name__ == "__main__":
    main()
