"""Measured energy: Linux's files of RAPL (energy counters of CPUs), a GPU's counter, and a run's cost."""

from pathlib import Path

import pytest
import torch
from support import known_ledger, monitoring

from retrain.monitoring.metrics import render
from retrain.records import RunRecord
from retrain.training import energy
from retrain.training.energy import EnergyMeter
from retrain.training.progress import Progress, Stopwatch

CPU = torch.device("cpu")
SPAN = 262_143_328_850
"""Largest value of a counter, in microjoules."""


def write_package(folder: Path, name: str, microjoules: int) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "max_energy_range_uj").write_text(f"{SPAN}\n")
    (folder / name / "energy_uj").write_text(f"{microjoules}\n")


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the counters of two processor packages and of the first package's memory."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        write_package(tmp_path, name, 1_000_000)
    return tmp_path


def test_meter_adds_up_packages_and_handles_a_wrap(powercap: Path) -> None:
    meter = EnergyMeter(CPU)
    write_package(powercap, "intel-rapl:0", 4_000_000)
    write_package(powercap, "intel-rapl:1", 1_500_000)
    write_package(powercap, "intel-rapl:0:0", 9_000_000)
    assert meter.joules() == pytest.approx(3.5)
    write_package(powercap, "intel-rapl:1", 499_999)
    assert meter.joules() == pytest.approx((SPAN - 1_000_000) * 1e-6)
    assert meter.joules() == 0


def test_energy_is_unknown_without_rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "nowhere")
    progress = Progress()
    Stopwatch(progress, EnergyMeter(CPU)).tick()
    assert progress.joules is None


def test_stopwatch_adds_energy_and_continues_after_a_resumption(powercap: Path) -> None:
    progress = Progress()
    stopwatch = Stopwatch(progress, EnergyMeter(CPU))
    write_package(powercap, "intel-rapl:0", 3_000_000)
    stopwatch.tick()
    resumed = Stopwatch(progress, EnergyMeter(CPU))
    write_package(powercap, "intel-rapl:0", 4_000_000)
    resumed.tick()
    assert progress.joules == pytest.approx(3)


def test_run_that_was_measured_in_part_has_no_energy(powercap: Path) -> None:
    progress = Progress(seconds=10.0)
    Stopwatch(progress, EnergyMeter(CPU)).tick()
    assert progress.joules is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU whose energy NVML could count")
def test_gpu_counts_the_energy_of_its_work() -> None:
    meter = EnergyMeter(torch.device("cuda", 0))
    if not meter.is_available:
        pytest.skip("this GPU or its driver counts no energy")
    matrix = torch.randn(4096, 4096, device="cuda")
    for _ in range(200):
        matrix = torch.nn.functional.normalize(matrix @ matrix)
    torch.cuda.synchronize()
    assert meter.joules() > 0


def measured(watts: float | None) -> RunRecord:
    """Return a run whose device took 500 W on average. Its task sets `costs.device_watts` to `watts`."""
    record = known_ledger.run(1, 100, 400)
    assert record.result
    cost = record.result.cost
    result = record.result.model_copy(
        update={"cost": cost.model_copy(update={"measured_joules": 500 * cost.device_seconds_all_in})}
    )
    costs = known_ledger.COSTS.model_copy(update={"device_watts": watts})
    return record.model_copy(update={"result": result, "costs": costs})


@pytest.mark.parametrize(("device_watts", "watts"), [(300.0, 300), (None, 500)])
def test_energy_uses_device_watts_or_else_the_measurement(device_watts: float | None, watts: int) -> None:
    values = {name: value for (name, _), value in monitoring.samples(render([measured(device_watts)]).decode()).items()}
    seconds = 100 * known_ledger.SECONDS
    assert values["retrain_energy_joules_total"] == pytest.approx((seconds + 20) * watts)
    assert values["retrain_saved_gross_energy_joules"] == pytest.approx(300 * known_ledger.SECONDS * watts)
    assert values["retrain_measured_energy_joules_total"] == pytest.approx((seconds + 20) * 500)
