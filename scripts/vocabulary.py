"""Find words that leave out who acts, such as "somebody" or "is told", in docs, messages and comments.

    python scripts/vocabulary.py [PATH ...]

Run it in the root of a git repository. Prints `file:line: word` for each and exits with 1. Without paths, it checks
`PLACES`. Generated JSON is skipped: its words come from the code.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PLACES = [
    "docs",
    "retrain",
    "charts",
    "pipelines",
    "scripts",
    "benchmarks",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
]
KINDS = frozenset({".md", ".py", ".sh", ".txt", ".tpl", ".yaml", ".html"})
"""Extensions of the files that people read and write."""
BANNED = re.compile(
    r"\b(whoever|whomever|whosoever|somebody|nobody|anybody|everybody|say\s+it\s+with|(?:is|are)\s+told(?!\s+apart))\b",
    re.IGNORECASE,
)
"""Name the actor instead: the watcher, the caller, the training process. Classes may still be told apart."""
ALLOWED = frozenset({"scripts/vocabulary.py"})


def main(paths: list[str]) -> int:
    """Print every banned word in these files and folders; return 1 if there is one, else 0."""
    found = [
        f"{name}:{line}: {word}"
        for name in tracked_files(paths or PLACES)
        for line, word in banned_words(Path(name).read_text(encoding="utf-8"))
    ]
    if found:
        print(*found, sep="\n")
        print(f"{len(found)} banned words: name who acts instead (the watcher, the caller, the training process)")
    return 1 if found else 0


def tracked_files(paths: list[str]) -> Iterator[str]:
    """Yield the names of the files below these paths that git knows."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if Path(name).suffix in KINDS and name not in ALLOWED and Path(name).is_file():
            yield name


def banned_words(text: str) -> Iterator[tuple[int, str]]:
    """Yield each banned word or phrase of a text with the number of the line where it begins."""
    for match in BANNED.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
