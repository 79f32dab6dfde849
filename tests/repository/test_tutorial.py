"""Every block of docs/tutorial.md and the notebook runs, in order, in an empty folder."""

import csv
import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support.processes import preloaded_programs
from support.programs import free_port, need
from support.rendered import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.md"
NOTEBOOK = ROOT / "docs" / "model.ipynb"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tutorial")


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    """Return the output of the complete tutorial."""
    need("curl", "curl")
    port = str(free_port())
    blocks = BLOCK.findall(TUTORIAL.read_text())
    script = "set -euxo pipefail\n" + "".join(blocks).replace("8080", port)
    environment = {
        **os.environ,
        "PATH": f"{preloaded_programs()}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RETRAIN_CACHE": str(folder / "cache"),
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr
    assert len(blocks) >= 7
    return done.stdout


def test_tutorial_ends_with_a_served_champion(printed: str, folder: Path) -> None:
    answer = _answers(printed)[0]
    champion = json.loads((folder / "store" / "digits" / "champion.json").read_text())["history"]
    assert [entry["run_id"].partition("-")[0] for entry in champion] == ["scratch", "continuous"]
    assert answer["model"] == champion[-1]["run_id"]
    assert answer["class"] == "3"
    assert f"{champion[-1]['run_id']} ['3', '7']" in printed
    assert "images classified correctly" in printed


def _answers(printed: str) -> list[dict[str, str]]:
    """Return the server's answers. curl prints no line break after an answer."""
    return [json.JSONDecoder().raw_decode(printed, found.start())[0] for found in re.finditer(r'\{"model"', printed)]


def test_tutorial_writes_predictions_and_an_exported_model(printed: str, folder: Path) -> None:
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list((folder / "photos" / "3").iterdir()))
    assert sum(row["class"] == "3" for row in rows) > 0.9 * len(rows)
    names = ["README.md", "config.json", "model.onnx", "model.pt2", "model.safetensors"]
    assert sorted(path.name for path in (folder / "digits-model").iterdir()) == names


def test_tutorial_trains_another_task_from_the_exported_weights(printed: str, folder: Path) -> None:
    weights = (folder / "digits-model" / "model.safetensors").read_bytes()
    kept = folder / "store" / "tuned" / "pretrained" / f"{hashlib.sha256(weights).hexdigest()}.safetensors"
    assert kept.read_bytes() == weights
    assert (folder / "tuned-model" / "config.json").exists()
    shares = re.findall(r"([\d.]+)% of [\d,]+ images classified correctly", printed)
    assert len(shares) == 2
    assert float(shares[1]) > 95  # three epochs without these weights end at about 92% on held-out images
    champion = json.loads((folder / "store" / "tuned" / "champion.json").read_text())["history"][-1]["run_id"]
    assert [(answer["model"], answer["class"]) for answer in _answers(printed)[1:]] == [(champion, "3")]
    assert "\n['3']\n" in printed


def test_notebook_runs_on_the_tutorials_task(printed: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_CACHE", str(folder / "cache"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in shown if output.output_type == "error"]
    text = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in shown)
    assert "continuous-" in text
    assert "'3'" in text
