"""Run the steps of the compiled pipeline inside the image, with the commands and inputs of KFP's launcher."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml


def main() -> None:
    """Compile the task's pipeline, and run all steps of one run, each in a separate process."""
    subprocess.run(["retrain", "pipeline", "compile", "-t", "digits-kfp", "-o", "/tmp/pipeline.yaml"], check=True)
    spec = next(yaml.safe_load_all(Path("/tmp/pipeline.yaml").read_text()))
    task = spec["root"]["inputDefinitions"]["parameters"]["task"]["defaultValue"]
    run = step(spec, "plan", task=task, method="", purpose="retrain", submission="image", job="image")
    for name in ("train-only", "evaluate", "promote", "record"):
        run = step(spec, name, task=task, run_id=run, device="auto")


def step(spec: dict[str, Any], name: str, **inputs: str) -> str:
    """Run one step and return its output."""
    container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
    folder = Path("/tmp/kfp", name)
    folder.mkdir(parents=True)
    artifacts = spec["components"][f"comp-{name}"]["outputDefinitions"].get("artifacts", {})
    outputs = {
        "parameters": {"Output": {"outputFile": str(folder / "Output")}},
        "artifacts": {
            key: {"artifacts": [{"name": key, "uri": str(folder / key), "metadata": {}}]} for key in artifacts
        },
        "outputFile": str(folder / "outputs"),
    }
    given = json.dumps({"inputs": {"parameterValues": inputs}, "outputs": outputs})
    command = [part.replace("{{$}}", given) for part in container["command"] + container["args"]]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    output: str = json.loads((folder / "outputs").read_text())["parameterValues"]["Output"]
    print(f"{name}: {time.perf_counter() - start:.1f} s, {output}", flush=True)
    return output


if __name__ == "__main__":
    main()
