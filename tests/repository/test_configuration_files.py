"""Configuration files of GitHub, pre-commit, Renovate and the image build match the Makefile and the project."""

import json
import re
import subprocess
from pathlib import Path

import yaml

import retrain

ROOT = Path(__file__).parents[2]


def test_workflow_runs_only_the_ci_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert [command for command in commands if "apt-get" not in command] == ["bash .ci/run"]


def test_pre_commit_runs_only_checks_of_lint() -> None:
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].replace(".venv/bin/", "$(BIN)/") in lint


def test_citation_and_issue_templates_are_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (retrain.__version__, "Apache-2.0")
    for name in ("bug", "feature"):
        _, head, body = (ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.md").read_text().split("---\n", 2)
        assert {"name", "about", "labels"} == yaml.safe_load(head).keys()
        assert body.strip()


def test_renovate_keeps_the_base_image_at_python_3_11() -> None:
    """Renovate reads the default of ARG; Dependabot does not."""
    [base] = re.findall(r"^ARG BASE_IMAGE=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.11-slim-\w+@sha256:[0-9a-f]{64}", base)
    settings = json.loads((ROOT / ".github" / "renovate.json").read_text())
    assert "docker:pinDigests" in settings["extends"]
    [rule] = settings["packageRules"]
    assert re.match(rule["allowedVersions"].strip("/"), base.removeprefix("python:"))


def test_images_are_labelled_with_their_version_and_commit() -> None:
    """The OCI's image specification defines the names of the labels (annotations)."""
    shown = subprocess.check_output(["make", "--dry-run", "image-slim", "BUILD=build"], cwd=ROOT, text=True)
    labels = dict(re.findall(r"--label org\.opencontainers\.image\.(\w+)=('[^']+'|\S+)", shown))
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    assert re.fullmatch(r"'Keeps image classifiers .*'", labels.pop("description"))
    assert labels == {
        "title": "retrain",
        "licenses": "Apache-2.0",
        "version": retrain.__version__,
        "revision": commit,
    }


def test_build_context_has_only_files_of_the_image() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert sent == {name for names in copied for name in names.split()}
    assert all((ROOT / name).exists() for name in sent)


def test_documented_images_install_with_the_base_images_pip() -> None:
    """The image's PATH begins with an environment that was made without pip."""
    image = (ROOT / "Dockerfile").read_text()
    assert "-m venv --without-pip /opt/retrain" in image
    assert "PATH=/opt/retrain/bin:$PATH" in image
    for path in (ROOT / "k8s" / "examples" / "kserve-sdk" / "Dockerfile", ROOT / "docs" / "operations.md"):
        commands = re.findall(r"RUN (\S+) -m pip --python /opt/retrain/bin/python install", path.read_text())
        assert commands == ["/usr/local/bin/python3"]
