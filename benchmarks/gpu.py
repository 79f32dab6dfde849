"""Measure ResNet-18 at 32x32 on a GPU in images per second, compared with a DataLoader loop and the chip's limit.

This project's loop trains with the method `continuous` in bfloat16, in four ways: plain, compiled, compiled in CUDA
graphs, and with the whole step in one graph. Torch raises an error if the host waits for the device. `dataloader` is
the typical loop of `epochs.py` with channels_last, bfloat16, fused Adam, workers and pinned memory. The limit is the
chip's throughput in a product of two large matrices, divided by the network's operations for an image. Without a GPU,
the benchmark measures nothing and exits with 0.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from epochs import by_hand
from lib.limit import limit, seconds
from lib.noise import Case, run_of
from lib.report import parser, report

from retrain.config.task import Training
from retrain.training.hardware import compile_forward
from retrain.training.loop import train_step
from retrain.training.step import choose_step

CompileMode = Literal["none", "compile", "graphs", "step"]
COMPILE_MODES: tuple[CompileMode, ...] = ("none", "compile", "graphs", "step")
SAMPLES, WARM_UP = 50_000, 20
RECORDED = 220
"""Number of iterations after which the measurement of `step` begins. By then the step is recorded: a run corrects the
statistics of new BatchNorm layers in its first 197 iterations, and records afterwards."""
LOADED = 12_800
"""Images in an epoch of the DataLoader. There are fewer than `SAMPLES`, because the DataLoader takes many times as
long."""


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    """Make torch raise an error within the context if the host waits for the GPU. On the CPU, do nothing."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def retrain_speed(case: Case, batch: int, mode: CompileMode, steps: int, device: torch.device) -> float:
    """Return the images per second of this project's loop."""
    training = Training(bf16=True, batch_size=batch, compile=mode)
    run = run_of(case, "continuous", SAMPLES, 1_000_000, training, device)
    run.forward = compile_forward(run.network, mode, device)
    run.compute = choose_step(run)

    def run_steps() -> None:
        with waiting_is_an_error(device):
            for _ in range(steps):
                train_step(run)

    for _ in range(RECORDED if mode == "step" else WARM_UP):
        train_step(run)
    return steps * batch / seconds(run_steps, device)


def dataloader(case: Case, batch: int, images: int, device: torch.device, workers: Sequence[int]) -> float:
    """Return the images per second of the typical loop, with the best of these numbers of workers."""
    steps = max(1, images // batch)
    epoch = by_hand(case, steps, augment=True, tuned=True, batch=batch, workers=workers, device=device)
    return steps * batch / seconds(epoch, device)


def measure(
    case: Case,
    batches: Sequence[int],
    modes: Sequence[CompileMode],
    steps: int,
    images: int,
    size: int,
    device: torch.device,
    workers: Sequence[int],
) -> dict[str, object]:
    """Return the speeds of each loop with each batch size, and the limit."""
    chip = limit(case, size, device, torch.bfloat16)
    results = []
    for batch in batches:
        speeds: dict[str, float] = {mode: retrain_speed(case, batch, mode, steps, device) for mode in modes}
        dataloader_speed = dataloader(case, batch, images, device, workers)
        results.append(
            {
                "batch": batch,
                "images per second": {
                    name: round(speed) for name, speed in {**speeds, "dataloader": dataloader_speed}.items()
                },
                "times as fast as the dataloader": {mode: round(speeds[mode] / dataloader_speed, 2) for mode in modes},
                "share of the limit": {mode: round(speeds[mode] / chip.speed, 3) for mode in modes},
            }
        )
    return {
        "case": case.name,
        "flops per image": chip.flops,
        "matrix TFLOP/s, bf16": round(chip.throughput / 1e12, 3),
        "limit, images per second": round(chip.speed),
        "results": results,
    }


def main() -> None:
    """Measure on the first GPU if there is one."""
    options = parser(__doc__).parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured")
        return
    device = torch.device("cuda", 0)
    cores = len(os.sched_getaffinity(0))
    workers = sorted({max(1, cores // 2), max(1, cores - 1)})
    figures = measure(Case(64, 32), (128, 512), COMPILE_MODES, 100, LOADED, 8192, device, workers)
    report({"gpu": torch.cuda.get_device_name(device), **figures}, options.output)


if __name__ == "__main__":
    main()
