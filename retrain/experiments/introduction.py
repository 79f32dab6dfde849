"""Write the first paragraphs of a study's page, and describe its splits."""

import re
from collections.abc import Iterable, Iterator, Sequence

from retrain.experiments.settings import Split, Study

SIZES = {
    "mini": "It is smaller than the papers' studies, and runs on a CPU.",
    "paper": "It has the size of the papers' studies.",
}
ASPECTS = (
    "The recipe of Verwimp et al. has four aspects. Initialization (shrink-and-perturb) shrinks the old weights and "
    "adds a small multiple of a new network's weights. Objective (L2-init) adds a penalty that pulls the weights "
    "towards initial weights. Sampling (easy/hard) uses easy and hard samples less often. Schedule trains for fewer "
    "iterations."
)
PHRASES = {
    r"\bends? [0-9.]+ (points )?(above|below)": 'If a method "ends 2 points above" another, '
    "its final accuracy is 2 percentage points higher.",
    r"\btimes sooner": '"2 times sooner" means after half as many {cost}.',
    r"\brounds?\b": "A round is the training after a drop (the paper's word).",
    r"\bsteps? (after|before)\b": "A step is a drop with the training after it (the paper's word).",
    r"[×x]0\.(25|5|75)\b|\bx1\b": 'In the names of methods, and in "at ×0.5", ×0.5 (or x0.5) means a schedule with '
    "half of scratch's iterations. ×1 is the full schedule.",
    r"\bon val\b": '"On val" and "on test" mean on the validation split and on the test split.',
    r"\brandom weights\b": 'In comparisons, a start such as "random weights" or "the warm start" stands for the runs '
    "that begin with it.",
    r"\bscratch\b": "Scratch is training from a new network on all drops that have arrived.",
    r"\bnaive\b": "The naive start continues from the weights of the previous run, with standard training.",
    r"\bparent": "A run's parent is the run whose weights it starts from.",
    r"\b\d\d\+\d\d\b": "90+10 means that the first drop has 90 percent of the classes or of the images, and the second "
    "drop has the other 10 percent.",
    r"\b(?i:aspects?|L2-init|shrink-and-perturb)\b": ASPECTS,
}
"""Meanings of phrases, by the pattern of the phrase. A page explains the phrases that its study uses."""
OWN = "Ours, "
"""Start of an item of `repeats` that is in no paper."""


def describe_subject(study: Study) -> str:
    """Return the start of the page: the repeated tables and figures, questions beyond the papers, and phrases."""
    own = [item.removeprefix(OWN) for item in study.repeats if item.startswith(OWN)]
    of_papers = [item for item in study.repeats if not item.startswith(OWN)]
    sentences = [
        "This page is for readers who compare `retrain` with the papers of [Ash & "
        "Adams](https://arxiv.org/abs/1910.08475) and [Verwimp et al.](https://arxiv.org/abs/2502.21147)."
        if of_papers
        else "This page is for readers who choose methods and settings."
    ]
    if of_papers:
        sentences.append(f"The study repeats {_join_items(of_papers).removesuffix('.')}.")
    if own:
        subject = "It also" if of_papers else "The study"
        questions = "a question" if len(own) == 1 else "questions"
        sentences.append(f"{subject} examines {questions} that the papers leave open: {'; '.join(own)}.")
    sentences.append(SIZES[study.size])
    drops = sorted({study.count_drops(split) for split in study.splits})
    number = f"{drops[0]} to {drops[-1]}" if len(drops) > 1 else str(drops[0])
    sentences.append(f"The training data arrive in {number} drops. A drop is a batch of labelled images.")
    if study.claims:
        beyond_papers = all(claim.item.startswith(OWN) for claim in study.claims)
        goals = "the question or the expected result" if beyond_papers else "the papers' results"
        sentences.append(f"The column *goal* shows {goals}.")
    phrases = "\n".join(f"- {meaning}" for meaning in explain_phrases(study))
    return " ".join(sentences) + (f"\n\nPhrases on this page:\n\n{phrases}" if phrases else "")


def explain_phrases(study: Study) -> Iterator[str]:
    """Yield the meanings of the phrases that a study's texts and the names of its methods contain."""
    texts = [study.title, study.regime, study.findings, *study.repeats, *study.methods]
    texts += [text for claim in study.claims for text in (claim.paper, claim.ours)]
    for words, meaning in PHRASES.items():
        if any(re.search(words, text) for text in texts):
            yield meaning.format(cost=study.cost)


def describe_split(study: Study, name: str) -> str:
    """Return a sentence that explains one division of the training data into drops."""
    split = study.splits[name]
    if split.by == "source":
        return f"In `{name}`, each drop is one data set."
    if split.by == "transfer":
        return f"In `{name}`, the second run trains only on the second drop, with {split.kept}% of its training images."
    unit = "classes" if split.by == "classes" else "percent of the images"
    sizes = f"{split.step} images each" if split.step else f"{_join_words(split.sizes.split('+'))} {unit}"
    return f"In `{name}`, the drops have {sizes}{_describe_order(split)}."


def _describe_order(split: Split) -> str:
    if split.by == "component":
        return ", in the order of the images' first principal component"
    return ". Later drops have the images of which the method's own model is least sure" if split.by == "margin" else ""


def _join_items(items: Iterable[str]) -> str:
    """Return tables and figures in words, such as `Table 1 and Figure 2 of Verwimp et al.`"""
    by_paper: dict[str, list[str]] = {}
    for item in items:
        paper, _, name = item.partition(", ")
        by_paper.setdefault(paper, []).append(name)
    return ", and ".join(f"{_join_words(names)} of {paper}" for paper, names in by_paper.items())


def _join_words(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
