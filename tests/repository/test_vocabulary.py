"""Tests of the check for banned words in `make lint`."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.rendered import ROOT

NO_VERBS = {"A", "All", "An", "As", "Each", "Every", "How", "Its", "That", "The", "What", "Where", "Whether", "Who"}
SCRIPT = ROOT / "scripts" / "vocabulary.py"


def check(root: Path, *paths: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a repository on these paths, or on its default paths."""
    return subprocess.run([sys.executable, SCRIPT, *paths], cwd=root, capture_output=True, text=True, check=False)


def test_vocabulary_of_the_project_is_clean() -> None:
    ran = check(ROOT)
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A drop lands.\nThen somebody trains.\n", ["page.md:2: somebody"]),
        ("The watcher is\ntold so. Nobody asks.", ["page.md:1: is told", "page.md:2: Nobody"]),
        (
            "A run goes on where\nit stopped; seed 0 if absent.",
            ["page.md:1: run goes on", "page.md:2: ; seed 0 if absent"],
        ),
        (
            "The most probabilities label errors.\nComparison the presets, in vain.",
            ["page.md:1: most probabilities", "page.md:2: Comparison the presets", "page.md:2: in vain"],
        ),
        ("Scratch is taken\nto keep its share.", ["page.md:1: is taken to keep"]),
        ("Classes are told apart by colour, and nobodyknows is one word.", []),
        ("Files are created only if absent, so many that listing them is slow.", []),
    ],
)
def test_vocabulary_names_file_line_and_word(tmp_path: Path, text: str, found: list[str]) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "page.md").write_text(text)
    ran = check(tmp_path, "page.md")
    assert [re.split(": (?:write|name) ", line)[0] for line in ran.stdout.splitlines()[:-1]] == found
    assert ran.returncode == (1 if found else 0)


@pytest.mark.parametrize("folder", ["retrain", "pipelines", "scripts", "benchmarks", "docs"])
def test_docstrings_of_functions_begin_with_a_verb(folder: str) -> None:
    nouns = []
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
            if text and text.split()[0] in NO_VERBS:
                nouns.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert nouns == []
