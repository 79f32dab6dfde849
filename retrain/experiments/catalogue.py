"""Every table and figure of the two papers, and how it stands with each."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from retrain.experiments import kept_runs
from retrain.experiments.datasets import at_hand, how_to_get
from retrain.experiments.files import all_studies
from retrain.experiments.settings import Study

VERWIMP = {
    "Table 1": "all combinations of the four aspects",
    "Table 2a": "more data sets: CIFAR-10, ImageNet-100, ImageNet-200, Adaptiope",
    "Table 2b": "more splits of CIFAR-100, and shorter schedules",
    "Figures 1-7, initialization": "naive against shrink-and-perturb",
    "Figures 1-7, objective": "L2 and L2-init",
    "Figures 1-7, sampling": "old/new against easy/hard",
    "Figures 1-7, schedule": "100, 75, 50 and 25 percent of scratch's",
    "Figures 1-7, ten tasks": "50 + 10 x 5 classes, and the accumulated cost",
    "Figures 1-7, domains": "new domains instead of new classes",
    "Figures 8-15, alpha": "how much is kept of the old weights",
    "Figures 8-15, beta": "how much is added of the fresh ones",
    "Figures 8-15, lambda": "strength of L2-init",
    "Figures 8-15, c and r": "how many samples are easy or hard, and how seldom they appear",
    "Figures 8-15, multi-step": "another kind of schedule",
    "Figures 8-15, learning speed": "heat map of when samples are learnt",
    "Figures 8-15, gradient norms": "of old and of new data",
    "Figures 8-15, loss plateau": "training loss of scratch, naive and the recipe",
}
ASH = {
    "Table 1": "three models x SGD, Adam x three data sets, random against warm start",
    "Table 2": "L2, confidence penalty, adversarial training",
    "Table 3": "noise of several scales",
    "Table 4": "the last layer alone, and then all",
    "Table 5": "elastic weight consolidation",
    "Figure 1": "warm start against random start, half of CIFAR-10 and then all",
    "Figure 2": "passive online learning",
    "Figure 3": "transfer from CIFAR-10 to SVHN",
    "Figure 4": "batch sizes x learning rates in both rounds",
    "Figure 5": "correlation of final with initial weights",
    "Figure 6": "gradient norms",
    "Figure 7": "when to switch",
    "Figure 8": "shift of domain along the first principal component",
    "Figure 9": "active learning by margin",
    "Section 3.5": "Adam's state kept or reset",
}
OURS = {
    "theta_0, running statistics, new rows": "what the weights are pulled to, and what starts afresh",
    "the learning-speed index": "counted free or exactly, and how much of it is carried over",
    "how often to evaluate": "L_100 on coarser grids",
}
PAPERS = {"Verwimp et al.": VERWIMP, "Ash & Adams": ASH, "Ours": OURS}


class Entry(NamedTuple):
    """One table or figure, one of the studies that repeat it, and how that stands."""

    item: str
    about: str
    study: str
    status: str


def entries(root: Path, evidence: Path) -> Iterator[Entry]:
    """Yield every table and figure with its studies, or with none. Raises `StudyError` as `all_studies` does."""
    studies = all_studies()
    for paper, items in PAPERS.items():
        for item, about in items.items():
            name = f"{paper}, {item}"
            repeating = [study for study in studies if name in study.repeats]
            yield from (Entry(name, about, each.name, status(each, root, evidence)) for each in repeating)
            if not repeating:
                yield Entry(name, about, "", "no study yet")


def status(study: Study, root: Path, evidence: Path) -> str:
    """Say whether a study has been run, or what it needs."""
    if (evidence / study.name / kept_runs.FILE).exists():
        return f"run {study.size}"
    missing = lacking(study, root)
    return f"needs data {', '.join(missing)}" if missing else "not run"


def lacking(study: Study, root: Path) -> list[str]:
    """Return the names of the data sets of a study that are not at hand."""
    return [data.name for data in study.data if not at_hand(data.name, root)]


def needed(root: Path) -> Iterator[str]:
    """Yield what to fetch for all studies together, and where to put it."""
    for name in dict.fromkeys(name for study in all_studies() for name in lacking(study, root)):
        yield f"{name}: {how_to_get(name, root)}"
