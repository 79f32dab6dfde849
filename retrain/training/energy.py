"""Measure the energy of the training device, if the machine provides it: NVML for a GPU, RAPL for CPUs.

Torch is imported only for a GPU. The watcher imports this module through `monitoring`, and must start without torch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

POWERCAP = Path("/sys/class/powercap")
"""Linux's folder of RAPL counters. Often only root can read it. Most virtual machines and containers lack it."""
MICRO, MILLI = 1e-6, 1e-3


class EnergyMeter:
    """A meter of the device's energy, in joules since the last reading."""

    def __init__(self, device: "torch.device") -> None:
        self._read = _gpu_counter(device) if device.type == "cuda" else _processor_counter(POWERCAP)

    @property
    def is_available(self) -> bool:
        """Return whether this machine measures the device's energy."""
        return self._read is not None

    def joules(self) -> float:
        """Return the energy in joules since the last call, or since the start. 0 if this machine cannot measure it."""
        return self._read() if self._read else 0.0


def _processor_counter(folder: Path) -> Callable[[], float] | None:
    """Return a function that reads the energy of all CPU packages since its last call. Memory modules are excluded."""
    packages = [package for package in sorted(folder.glob("intel-rapl:*")) if package.name.count(":") == 1]
    try:
        spans = [int((package / "max_energy_range_uj").read_text()) for package in packages]
        last = [int((package / "energy_uj").read_text()) for package in packages]
    except OSError:
        return None

    def read() -> float:
        total = 0
        for number, package in enumerate(packages):
            now = int((package / "energy_uj").read_text())
            total += (now - last[number]) % (spans[number] + 1)  # the counter wraps around
            last[number] = now
        return total * MICRO

    return read if packages else None


def _gpu_counter(device: "torch.device") -> Callable[[], float] | None:
    """Return a function that reads a GPU's energy since its last call.

    Return None if NVML is not installed, or if the GPU has no energy counter.
    """
    try:
        import pynvml
    except ImportError:
        return None
    import torch

    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        last = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None

    def read() -> float:
        nonlocal last
        before, last = last, pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return float(last - before) * MILLI

    return read
