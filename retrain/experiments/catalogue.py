"""The status of the papers' tables, figures and sections that report runs, and of this project's questions."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from retrain.errors import StudyError
from retrain.experiments import kept_runs
from retrain.experiments.datasets import how_to_get, is_available
from retrain.experiments.papers import Claim
from retrain.experiments.settings import Study

VERWIMP = {
    "Table 1": "all combinations of the four aspects, continuous and from scratch",
    "Table 2a": "more data sets: CIFAR-10, ImageNet-100, ImageNet-200, Adaptiope",
    "Table 2b": "more splits of CIFAR-100, and shorter schedules, compared with scratch with L2-init",
    "Figure 1": "scratch, naive and all four aspects",
    "Figure 2": "initialization: naive compared with shrink-and-perturb",
    "Figure 3": "objective: L2 and L2-init, continuous and from scratch",
    "Figure 4": "batch composition: old/new compared with easy/hard",
    "Figure 5": "schedule: 100, 75, 50 and 25 percent of scratch's",
    "Figure 6": "ten tasks: 50 + 10 x 5 classes, and the accumulated cost",
    "Figure 7": "a new domain instead of new classes",
    "Figure 8": "alpha: the factor by which the old weights are multiplied",
    "Figure 9": "beta: the factor by which the added fresh weights are multiplied",
    "Figure 10": "lambda: strength of L2-init",
    "Figure 11": "in which epochs of the first training each sample is classified correctly",
    "Figure 12": "c and r: how many samples count as easy or hard, and how often these are used",
    "Figure 13": "multi-step schedules instead of cosines",
    "Figure 14": "gradient norms of old and of new data over the naive run",
    "Figure 15": "held-out loss of scratch and naive, and when it reaches its plateau",
}
ASH = {
    "Table 1": "random and warm start compared: three models, SGD and Adam, three data sets",
    "Table 2": "L2, adversarial training, confidence penalty in both rounds, four strengths each",
    "Table 3": "Gaussian noise of five standard deviations, and the time to fit",
    "Table 4": "training only the last layer, and the last layer first, on three data sets",
    "Table 5": "elastic weight consolidation, four strengths",
    "Figure 1": "warm and random start compared: half of CIFAR-10 and then all of it",
    "Figure 2": "passive online learning, 100 images a step",
    "Figure 3": "transfer from CIFAR-10 to a part of SVHN",
    "Figure 4": "accuracy over time, by batch size and learning rate in both rounds",
    "Figure 5": "accuracy over the correlation of final with initial weights",
    "Figure 6": "gradient norms in both rounds",
    "Figure 7": "when to switch to the second round: after 5, 10, 15 ... epochs of the first",
    "Figure 8": "online learning with images sorted by their first principal component",
    "Figure 9": "active learning by margin, 100 images a step",
    "Section 3.5": "Adam's state kept or reset",
}
OURS = {
    "towards which weights L2-init pulls (theta_0)": "the first initialization, a new network, or the run's start",
    "whether a run takes over its parent's running statistics of BatchNorm": "old and fresh statistics compared",
    "how new rows of the head start": "newly initialized, or multiplied by the noise factor beta",
    "how to count the learning-speed index": "during training, or in extra evaluations",
    "how much of the parent's learning-speed index to add": "nothing, half or all of it",
    "how often to evaluate": "L_100 with fewer evaluations",
    "which method is best if scratch does not fit its data": "few epochs on a large data set",
    "whether the recipe helps on scanned digits": "a study of two minutes",
}
PAPERS = {"Verwimp et al.": VERWIMP, "Ash & Adams": ASH, "Ours": OURS}
BEGIN, END = "<!-- agreement: written by `retrain study report` -->", "<!-- end of agreement -->"
"""Marker lines in the evidence's README.md. The table that compares results with the papers is between them."""


class Entry(NamedTuple):
    """One table, figure or question, a study of it, and the study's status."""

    item: str
    about: str
    study: str
    status: str


def entries(studies: Sequence[Study], root: Path, evidence: Path) -> Iterator[Entry]:
    """Yield an entry for each pair of an item (a table, figure or question) and a study of it.

    An item without a study has one entry. Items that only the studies name come last.
    """
    items = dict(_items())
    items |= {item: "your own question" for study in studies for item in study.repeats if item not in items}
    for item, about in items.items():
        repeating = [study for study in studies if item in study.repeats]
        yield from (Entry(item, about, each.name, status(each, root, evidence)) for each in repeating)
        if not repeating:
            yield Entry(item, about, "", "no study yet")


def _items() -> Iterator[tuple[str, str]]:
    return ((f"{paper}, {item}", about) for paper, items in PAPERS.items() for item, about in items.items())


def status(study: Study, root: Path, evidence: Path) -> str:
    """Return a study's status: run, not run, or the data sets that it needs."""
    if (evidence / study.name / kept_runs.FILE).exists():
        return f"run {study.size}"
    missing = missing_data(study, root)
    return f"needs data {', '.join(missing)}" if missing else "not run"


def missing_data(study: Study, root: Path) -> list[str]:
    """Return the names of a study's missing data sets."""
    return list(dict.fromkeys(data.name for data in study.data if not is_available(data.name, root)))


def list_missing(studies: Sequence[Study], root: Path) -> Iterator[str]:
    """Yield the missing data sets of the studies, each with instructions to get it."""
    for name in dict.fromkeys(name for study in studies for name in missing_data(study, root)):
        yield f"{name}: {how_to_get(name, root)}"


def agreement(studies: list[Study]) -> str:
    """Return the table that compares results with the papers, with a row for each claim of each table or figure."""
    lines = ["| table or figure | the paper | this project | agrees |", "| --- | --- | --- | --- |"]
    for item in (item for item, _ in _items() if not item.startswith("Ours")):
        found = [(study, claim) for study in studies for claim in study.claims if claim.item == item]
        lines.extend(_line(study, claim) for study, claim in found)
        if not found:
            lines.append(f"| {item} | - | no study has been compared yet | not tested |")
    return "\n".join(lines)


def _line(study: Study, claim: Claim) -> str:
    return f"| {claim.item} | {claim.paper} | {claim.ours} ([page]({study.name}.md)) | {claim.agrees} |"


def with_agreement(text: str, studies: list[Study]) -> str:
    """Return a README's text with the table between its marker lines. Raises `StudyError` if they are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise StudyError(
            f"README.md of the evidence has no marker lines around its table of results: add {BEGIN} and {END}"
        )
    return f"{before}{BEGIN}\n\n{agreement(studies)}\n\n{END}{after}"
