"""Tests without optional packages: core commands run, and every other command names the extra that it needs."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.pictures import two_classes
from support.rendered import ROOT

OPTIONAL = (
    *("altair", "kfp", "kfp_server_api", "mlflow", "obstore", "onnx", "onnxruntime", "onnxscript", "pandas"),
    *("pillow_heif", "pyarrow", "pynvml", "ruamel", "ruamel.yaml", "scipy", "sklearn", "starlette", "tensorboard"),
    *("timm", "uvicorn", "vl_convert"),
)
"""Import names of the packages that extras install."""

PROGRAM = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL}))  # None: an import fails, and find_spec finds nothing
from support.terminal import call
for line in sys.stdin:
    command = line.split()
    print("ended", command[0], call(command), flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with photos and a task of a small network."""
    monkeypatch.chdir(tmp_path)
    two_classes(tmp_path / "photos")
    settings = "data: {image_size: 8, crop_padding: 0}\nmodel: {name: logistic}\ntraining: {epochs: 2, batch_size: 8}\n"
    (tmp_path / "pets.yaml").write_text(f"name: pets\nstore: {tmp_path / 'store'}\n{settings}")
    return tmp_path


def run_lines(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run commands, one after the other, in a process that cannot import optional packages."""
    settings = {"RETRAIN_CACHE": str(folder / "cache"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    environment = os.environ | settings | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    typed = "\n".join(f"{line} --task pets.yaml" for line in lines)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=environment, input=typed, capture_output=True, text=True
    )


def endings(ran: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.removeprefix("ended ") for line in ran.stdout.splitlines() if line.startswith("ended ")]


def test_core_commands_need_no_extra(folder: Path) -> None:
    ran = run_lines(
        folder,
        *("drop pack photos", "run", "status", "history", "predict photos", "export -o exported", "gc --dry-run"),
        *("watch --once", "metrics", "drop list", "drop drift", "doctor"),
    )
    assert ran.returncode == 0, ran.stderr
    commands = "drop run status history predict export gc watch metrics drop drop doctor"
    assert endings(ran) == [f"{command} 0" for command in commands.split()], ran.stdout + ran.stderr


def test_other_commands_name_their_extra(folder: Path) -> None:
    needed = {
        "report": "report",
        "serve": "serve",
        "export -o exported --onnx": "onnx",
        "predict photos -o table.parquet": "tables",
        "track --to mlflow": "mlflow",
        "track --to tensorboard -o board": "tensorboard",
        "pipeline compile -o pipeline.yaml": "kfp",
        "run --on kfp-local": "kfp",
        "run --set model.name=timm/test_resnet": "timm",
        "status --set store=gs://bucket": "gcs",
        "status --set store=az://container": "azure",
    }
    ran = run_lines(folder, "drop pack photos", "run", *needed)
    assert ran.returncode == 0, ran.stderr
    assert endings(ran)[2:] == [f"{line.split()[0]} 2" for line in needed], ran.stdout + ran.stderr
    named = [
        line.rpartition("retrain-classifiers[")[2].partition("]")[0]
        for line in ran.stderr.splitlines()
        if "pip install" in line
    ]
    assert named == list(needed.values()), ran.stderr


def test_pyproject_defines_exactly_the_listed_extras() -> None:
    """If you add an extra, add its packages to `OPTIONAL`, and its name here."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) == {
        *("azure", "demo", "energy", "experiments", "gcs", "heic", "kfp", "migrate", "mlflow", "onnx", "report"),
        *("serve", "tables", "tensorboard", "timm"),
    }
