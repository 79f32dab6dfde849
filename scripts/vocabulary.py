"""Find banned words and phrases in docs, messages, comments and docstrings, and print what to write instead.

    python scripts/vocabulary.py [PATH ...]

Run it in the root of a git repository. It prints `file:line: words: advice` for each banned word and exits with 1.
Without paths, it checks `PLACES`. It skips generated JSON, because its words come from the code.
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
    "k8s",
    "pipelines",
    "scripts",
    "benchmarks",
    "tests",
    "Makefile",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
]
KINDS = frozenset({".md", ".py", ".sh", ".txt", ".tpl", ".yaml", ".html", ".ipynb"})
"""Extensions of the files that people read and write. The Makefile has none."""
ALLOWED = frozenset({"scripts/vocabulary.py", "tests/repository/test_vocabulary.py"})
ADVICE = {
    r"whoever|whomever|whosoever|somebody|nobody|anybody|everybody": "name the watcher, the caller, the process, ...",
    r"say\s+it\s+with": "write 'pass' and the option",
    r"(?:is|are)\s+told(?!\s+apart)": "name who passes what",
    r"(?:what\s+)?(?:came|comes?)\s+of\s+(?:it|them|that|a|an|the)": "write 'the result of'",
    r"(?:goes|go|going|went)\s+on\s+(?:from(?!\s+a\s+run\s+that)|with|where|there)": "write 'continues' or 'resumes'",
    r"(?:it|runs?|training)\s+goes\s+on": "write 'continues' or 'resumes'",
    r"in\s+force": "write 'the champion', 'active' or 'valid'",
    r"as\s+it\s+stands": "write 'the current state of'",
    r"by\s+lot": "write 'at random'",
    r";\s+(?:[\w.'-]+\s+){0,6}(?:if|where)\s+(?:absent|empty)": "write '(default: ...)'",
    r"(?<!drawn )anew|afresh": "write 'again' or 'new'",
    r"to\s+the\s+letter": "write 'exactly'",
    r"exclude\s+each\s+other": "write 'cannot be combined'",
    r"for\s+ever": "write 'forever'",
    r"any\s+more": "write 'no longer'",
    r"commonest|quickest": "write 'most common' or 'fastest'",
    r"so\s+many(?!\s+(?:that|as))": "write 'this number of', or name the number",
    r"(?:most|least|how|more|less)\s+probabilities": "write 'likely': a rename went too far",
    r"comparison (?:the|all|both) \w+s": "write 'compare': a rename went too far",
    r"in\s+vain": "name what failed",
    r"goes\s+whole": "write 'is removed completely'",
    r"(?:takes?|taken)\s+note\s+of\s+nothing": "write 'records nothing'",
    r"tells?\s+of(?!\s+waiting)": "write 'reports' or 'describes'",
    r"is\s+all\s+(?:it|they)\s+(?:is|are)\s+for": "write 'is only for'",
    r"put\s+(?:aside|off)|puts\s+(?:aside|off)": "write 'quarantine' or 'postpone'",
    r"(?:is|are)\s+taken\s+to\s+(?:be|do|have|keep|lose)": "write 'is assumed to'",
    r"beside\s+(?:the|a|an|its?|them|this|that|these|those|other|each|images?|tables?|folders?)": "write 'next to'",
}
"""Phrases that readers of English outside this project would not expect, and what to write instead."""
BANNED = re.compile("|".join(rf"\b(?P<b{number}>{phrase})\b" for number, phrase in enumerate(ADVICE)), re.IGNORECASE)


def main(paths: list[str]) -> int:
    """Print every banned word in these files and folders. Return 1 if there is one, else 0."""
    found = [
        f"{name}:{line}: {words}: {advice}"
        for name in tracked_files(paths or PLACES)
        for line, words, advice in banned_words(Path(name).read_text(encoding="utf-8"))
    ]
    if found:
        print(*found, f"{len(found)} banned words", sep="\n")
    return 1 if found else 0


def tracked_files(paths: list[str]) -> Iterator[str]:
    """Yield the names of the files below these paths that git knows."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        is_text = Path(name).suffix in KINDS or Path(name).name == "Makefile"
        if is_text and name not in ALLOWED and Path(name).is_file():
            yield name


def banned_words(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield each banned word or phrase of a text, with the number of its line and the advice."""
    guidance = list(ADVICE.values())
    for match in BANNED.finditer(text):
        number = next(int(name[1:]) for name, value in match.groupdict().items() if value is not None)
        yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), guidance[number]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
