"""Export a run's model into one folder that appears only when it is complete."""

import hashlib
import json
import shutil
from pathlib import Path
from uuid import uuid4

import torch
from safetensors.torch import save

from retrain.errors import UserError
from retrain.export import programs
from retrain.export.card import render_card
from retrain.export.configuration import make_configuration
from retrain.export.parity import Parity, compare_program, read_test_samples
from retrain.inference.loading import Source, load_model
from retrain.inference.model import Model
from retrain.pipeline.evaluate import restore_network
from retrain.records import ModelInput

WEIGHTS = "model.safetensors"


def export_model(
    source: Source, run_id: str | None, output: Path, formats: tuple[programs.Format, ...] = ()
) -> list[Parity]:
    """Write a run's model, or the champion's, to a new folder, and compare each program with the network.

    Raises `UserError` if the folder already exists or a format's packages are not installed, `OSError` if the folder
    cannot be written, `ModelError` if a program and the network give a test image different labels, and `RunError` if
    there is no test image to compare them.
    """
    programs.check_installed(formats)
    if output.exists():
        raise UserError(f"--output {output}: already exists: remove it or choose another folder")
    model = load_model(source, run_id, "cpu")
    part = output.with_name(f".{output.name}-{uuid4().hex}")
    try:
        part.mkdir(parents=True)
        parities = _write(source, model, part, formats)
        part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return parities


def _write(source: Source, model: Model, folder: Path, formats: tuple[programs.Format, ...]) -> list[Parity]:
    plan, files = model.plan, source.store.run(model.run_id)
    weights = folder / WEIGHTS
    # not save_file: it raises no OSError if the disk is full, and lets only the owner read the file
    weights.write_bytes(save(files.weights(), {"format": "pt", "run_id": plan.run_id}))
    _write_text(folder / "config.json", json.dumps(make_configuration(plan), indent=2, ensure_ascii=False) + "\n")
    parities = _write_programs(source, model, folder, formats) if formats else []
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    _write_text(folder / "README.md", render_card(source.store, plan, sha256, parities))
    return parities


def _write_programs(source: Source, model: Model, folder: Path, formats: tuple[programs.Format, ...]) -> list[Parity]:
    plan = model.plan
    network = restore_network(source.store.run(model.run_id), plan, source.factories).eval()
    shape = ModelInput.of(plan).shape
    samples = read_test_samples(source, plan)
    with torch.no_grad():
        written = [programs.write_program(kind, network, shape, folder) for kind in formats]
        return [compare_program(program, model, samples) for program in written]


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
