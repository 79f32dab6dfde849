"""Train in several processes as if in one. torchrun starts them.

Every process draws every batch and its augmentation, and computes its own rows of the batch. The stream of samples, the
averaged gradient and the counters therefore equal the result of one process, up to the order in which floats are added.
Two things differ. First, batch normalization on CPUs: each process normalizes by its own rows, and evaluations use the
first process's running statistics. On GPUs, SyncBatchNorm uses the statistics of the whole batch, but it does not work
on CPUs. Second, each process draws its own dropout masks.
"""

import functools
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from threading import Event, Thread
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from retrain.data.augment import Rows
from retrain.errors import DamagedDrop, ModelError
from retrain.training.preemption import Preempted

POLL_SECONDS = 0.05
HEARTBEAT_SECONDS = 5.0
MAX_SILENCE = 60.0
"""Seconds without a heartbeat after which a rank counts as lost."""

DAMAGE_KEY = "retrain/damage"
"""Key in torchrun's store for the damaged drop that a rank has found."""

Votes = Callable[[], tuple[bool, ...]]
"""Function that returns the answers of one rank, or of all ranks together, to yes-or-no questions of the training loop:
whether to stop, and whether to save."""

LOST = "another training process ended or stopped responding (%s); run the same command again to resume"

log = logging.getLogger("retrain")


class ProcessGroup:
    """The group of processes that train together. This base class is a group of only one process."""

    rank, size = 0, 1

    def rows(self, batch: int) -> Rows:
        """Return the rows of a batch that this process computes. The numbers of rows differ by at most one."""
        return Rows(batch * self.rank // self.size, batch * (self.rank + 1) // self.size, batch)

    def gather_batch(self, rows: Rows, *columns: Tensor) -> tuple[Tensor, ...]:
        """Return columns of the whole batch, each [B]. `columns` have only the values of this process's rows."""
        return columns

    def sum_over_ranks(self, counts: Tensor) -> Tensor:
        """Return the sum over all processes."""
        return counts

    def any_rank(self, ask: Votes) -> Votes:
        """Start a vote of all ranks, and return a function.

        The function waits for the vote, and returns for each question whether any rank said yes.
        """
        return ask

    def gather_tensors(self, tensor: Tensor) -> Tensor:
        """Return every process's tensor, stacked in the order of ranks."""
        return tensor[None]

    def broadcast(self, data: bytes) -> bytes:
        """Return the first process's bytes."""
        return data

    def replicate(self, network: nn.Module) -> nn.Module:
        """Return a wrapped network for the forward pass. Its `backward()` averages the gradients over the processes."""
        return network

    def sync_buffers(self, network: nn.Module) -> None:
        """Copy the first process's buffers to every process."""

    def preempt_on_lost_rank(self) -> AbstractContextManager[None]:
        """Raise `Preempted` if another process is lost within the context. The last checkpoint is in the store.

        If a process stays without heartbeats for `MAX_SILENCE`, this process exits with code 75 instead. Raises
        `DamagedDrop` if the lost process has reported a damaged drop. Raises `ModelError` if several processes cannot
        train this network.
        """
        return nullcontext()

    def report_damage(self, error: DamagedDrop) -> None:
        """Report a damaged drop to the other processes before this process ends. A retry would find it again."""

    def publish_plan(self, plan: str) -> None:
        """Send the other ranks the next plan to train as JSON, or an empty text at the end. Only rank 0 calls this."""

    def wait_for_plan(self) -> str:
        """Wait for the next plan of rank 0 and return it. It is empty at the end. Rank 0 does not call this."""
        return ""


SINGLE_PROCESS = ProcessGroup()


class TorchrunGroup(ProcessGroup):
    """The group of processes that torchrun started. Its collective operations wait for all ranks."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size, self._store = rank, size, store
        self._plans = 0
        Thread(target=self._send_heartbeats, args=(store.clone(),), daemon=True).start()

    def gather_batch(self, rows: Rows, *columns: Tensor) -> tuple[Tensor, ...]:
        """Return the columns in float32. The values are exact, because each row of the sum comes from one process."""
        batch = columns[0].new_zeros(len(columns), rows.batch, dtype=torch.float32)
        for column, part in zip(batch, columns, strict=True):
            column[rows.at] = part
        return tuple(self.sum_over_ranks(batch))

    def sum_over_ranks(self, counts: Tensor) -> Tensor:
        """Sum in place with an all-reduce."""
        dist.all_reduce(counts)
        return counts

    def any_rank(self, ask: Votes) -> Votes:
        """Start an all-reduce of this rank's votes. They are on the CPU, so no rank has to wait for its GPU."""
        votes = torch.tensor(ask(), dtype=torch.uint8)
        work = dist.all_reduce(votes, dist.ReduceOp.MAX, async_op=True)

        def read_votes() -> tuple[bool, ...]:
            work.wait()
            return tuple(map(bool, votes.tolist()))

        return read_votes

    def gather_tensors(self, tensor: Tensor) -> Tensor:
        """Gather the tensors with an all-gather."""
        gathered = tensor.new_empty(self.size, *tensor.shape)
        dist.all_gather(list(gathered), tensor)
        return gathered

    def broadcast(self, data: bytes) -> bytes:
        """Broadcast the length, then the bytes."""
        length = torch.tensor(len(data))
        dist.broadcast(length, 0)
        buffer = torch.frombuffer(bytearray(data.ljust(int(length) or 1)), dtype=torch.uint8)
        dist.broadcast(buffer, 0)
        return buffer.numpy().tobytes()[: int(length)]

    def replicate(self, network: nn.Module) -> nn.Module:
        """Copy the first process's weights to all processes. On GPUs, synchronize batch normalization."""
        device = next(network.parameters()).device
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # torch has no types here
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(network, devices, forward_sync_buffers=False)

    def sync_buffers(self, network: nn.Module) -> None:
        """Broadcast each buffer from the first process."""
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)

    @contextmanager
    def preempt_on_lost_rank(self) -> Iterator[None]:
        """Raise `Preempted` or `DamagedDrop` for a lost rank, and `ModelError` for parameters that a step does not use.

        NCCL's errors are recognized by their type. All other errors are recognized by their text, because they have no
        type of their own.
        """
        left = Event()
        watch = Thread(target=self._exit_if_silent, args=(self._store.clone(), left), daemon=True)
        watch.start()
        try:
            yield
        except RuntimeError as error:
            if "parameters that were not used" in str(error):
                raise ModelError(
                    "model.name: the network has parameters that a training step does not use, and several processes "
                    "can only train networks that use all their parameters: remove these parameters, set requires_grad "
                    "to False for them, or train in one process"
                ) from error
            if not isinstance(error, dist.DistError) and "/gloo/" not in str(error):
                raise
            self._raise_reported_damage()
            log.warning(LOST, str(error).splitlines()[0])
            raise Preempted from error
        finally:
            left.set()
            watch.join()

    def report_damage(self, error: DamagedDrop) -> None:
        """Write the error to torchrun's store. It stays there even if this process ends."""
        self._store.set(DAMAGE_KEY, json.dumps([error.drop, str(error)]))

    def _raise_reported_damage(self) -> None:
        with suppress(RuntimeError):  # the store ends with torchrun
            if self._store.check([DAMAGE_KEY]):
                raise DamagedDrop(*json.loads(self._store.get(DAMAGE_KEY)))

    def _send_heartbeats(self, store: Store) -> None:
        with suppress(RuntimeError):  # the store ends with torchrun
            for beat in itertools.count():
                store.set(_heartbeat_key(self.rank), str(beat))
                time.sleep(HEARTBEAT_SECONDS)

    def _exit_if_silent(self, store: Store, left: Event) -> None:
        last = [(b"", time.monotonic())] * self.size
        while not left.wait(HEARTBEAT_SECONDS):
            for rank, (known, since) in enumerate(last):
                key = _heartbeat_key(rank)
                try:
                    beat = store.get(key) if store.check([key]) else b""
                except RuntimeError as error:
                    _exit_to_resume(str(error).splitlines()[0])
                if beat != known:
                    last[rank] = (beat, time.monotonic())
                elif time.monotonic() - since > MAX_SILENCE:
                    _exit_to_resume(f"no heartbeat of rank {rank} for {MAX_SILENCE:.0f} s")

    def publish_plan(self, plan: str) -> None:
        """Write the plan to torchrun's store. It stays there even if this process ends."""
        self._store.set(self._next_key(), plan)

    def wait_for_plan(self) -> str:
        """Poll torchrun's store, because a process that waits inside the store's own code does not react to SIGTERM."""
        key = self._next_key()
        while not self._store.check([key]):
            time.sleep(POLL_SECONDS)
        return self._store.get(key).decode()

    def _next_key(self) -> str:
        self._plans += 1
        return f"retrain/{self._plans}"


def _heartbeat_key(rank: int) -> str:
    return f"retrain/heartbeat/{rank}"


def _exit_to_resume(cause: str) -> NoReturn:
    """End the process from a thread, because the main thread may be waiting in torch's own code."""
    log.warning(LOST, cause)
    logging.shutdown()
    os._exit(os.EX_TEMPFAIL)


@functools.cache
def init_distributed(device: str) -> ProcessGroup:
    """Join the group that torchrun started, or return a group of one. With GPUs, `cuda` then means this rank's GPU."""
    if not dist.is_torchelastic_launched():
        return SINGLE_PROCESS
    store, rank, size = next(rendezvous("env://"))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size)
    joined = [f"retrain/joined/{other}" for other in range(size)]
    store.set(joined[rank], "")
    store.wait(joined)  # a rank that ends before another rank has connected to it would break that connection
    return TorchrunGroup(store, rank, size)
