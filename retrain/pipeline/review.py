"""Rank samples by the probability that their label is wrong, from the champion's training counters and its predictions.

Training samples are ranked by their learning speed (Verwimp et al., eq. 6) and mean loss. Both were counted during
training, so they need no computation. Held-out samples were never trained on, so they are ranked by the champion's
probability of their class, lowest first ("self-confidence" of Northcutt et al., Confident Learning, 2021).
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrain.config import Split
from retrain.config.frame import Frame
from retrain.config.task import Task
from retrain.data.augment import Normalize
from retrain.data.likeness import AlikePairs, find_alike
from retrain.data.sample_keys import name_in_drop, readable_key
from retrain.data.sample_table import USES, SampleTable
from retrain.data.samples import Samples
from retrain.data.table_making import read_or_make_table
from retrain.errors import RunError
from retrain.pipeline.context import Context
from retrain.pipeline.error_analysis import make_thumbnail_of
from retrain.pipeline.evaluate import load_network
from retrain.recipe.learning_speed import Counters, concatenate, difficulty, from_tensors
from retrain.records import Drop, Plan
from retrain.records.errors import Suspect
from retrain.training.evaluation import predict_probabilities

DARK, LIGHT = 8, 247
"""Mean grey values (0..255) of an image: at most `DARK` is nearly black, at least `LIGHT` is nearly white."""
NARROW = 4
"""Ratio of the sides above which an image is long and narrow."""


class RankedSplit(NamedTuple):
    """The N samples of one split of a dataset in its order, and their ranks as likely label errors."""

    samples: Samples
    rows: NDArray[np.int64]
    """int64 [N, 2]: the drop's position in the dataset, and the row in its sample table."""
    rank: NDArray[np.int64]
    """Positions in `rows`, the most likely label errors first. Training samples that were never used are left out."""
    explain: Callable[[int], str]
    """Function that returns the reason why a sample is suspect."""
    probability: Tensor | None
    """Probabilities [N, C], if they were already predicted."""


class Review(NamedTuple):
    """The samples that a person should review."""

    run_id: str
    """The champion's run. Its counters and predictions rank the samples."""
    trained: list[Suspect]
    """Training samples, the most likely label errors first."""
    held_out: list[Suspect]
    """Samples of val and test, the most likely label errors first."""
    alike: AlikePairs
    """Near-duplicates."""
    odd: list[str]
    """A sentence for each odd image: nearly black, nearly white, small or narrow."""
    drops: tuple[Drop, ...]
    classes: tuple[str, ...]


def review_data(context: Context, task: Task, limit: int) -> Review:
    """Return the most likely label errors: up to `limit` training samples, and up to `limit` held-out samples.

    The result also has near-duplicates and odd images. Samples that were amended since the champion's run are not
    among the label errors. Raises `RunError` if there is no champion, or if some of the champion's samples were erased.
    """
    champion = context.store.champion.read().run_id
    if champion is None:
        raise RunError(f"task {task.name} has no champion yet: train one with `retrain run`")
    plan = context.files(champion).plan()
    reviewer, drops = Reviewer(context, plan), context.store.drops.readable()
    held_out = [suspect for split in ("val", "test") for suspect in reviewer.suspects(split, limit)]
    tables = [(drop.id, read_or_make_table(drop, context.store)) for drop in drops]
    return Review(
        run_id=champion,
        trained=list(reviewer.suspects("train", limit)),
        held_out=sorted(held_out, key=lambda one: one.own_probability)[:limit],
        alike=find_alike(tables),
        odd=[sentence for drop_id, table in tables for sentence in _odd_images(drop_id, table, task.data.frame)],
        drops=drops,
        classes=plan.dataset.classes,
    )


def write_corrections(suspects: Iterable[Suspect], path: Path) -> None:
    """Write the suspects as a table of corrections. A person then deletes the wrong corrections from it."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("drop", "key", "content", "class", "reason"))
        writer.writeheader()
        for one in suspects:
            reason = f"was {one.class_name}; {one.why}"
            writer.writerow(
                {"drop": one.drop, "key": one.key, "content": one.content, "class": one.proposed, "reason": reason}
            )


class Reviewer:
    """A ranking of the samples that one run was trained and measured on."""

    def __init__(self, context: Context, plan: Plan) -> None:
        self._context, self._plan = context, plan
        self.drops = context.drops(plan.dataset)
        if any(drop.erased_since for drop in self.drops):
            raise RunError(
                f"samples of champion {plan.run_id} were erased, so its counters no longer match its samples: train "
                "the next champion with `retrain run`"
            )
        self._tables = [read_or_make_table(drop, context.store) for drop in self.drops]
        newest = {drop.id: drop for drop in context.store.drops.readable()}
        self._changed = [_changed_rows(newest.get(drop.id), drop) for drop in self.drops]
        self._network = load_network(context.files(plan.run_id), plan, context.factories, context.device)

    def suspects(self, split: Split, limit: int) -> Iterator[Suspect]:
        """Yield the `limit` most likely label errors of a split, each with the class that the champion proposes.

        A held-out sample is no suspect if the champion classifies it as labelled. A training sample may be one, because
        the champion may have memorized its wrong label. Yield none if there is only one class, because no other class
        can be proposed.
        """
        ranked = self.rank_split(split)
        order = ranked.rank
        if ranked.probability is not None:
            differs = ranked.probability.argmax(1) != ranked.samples.labels.cpu()
            order = order[differs.numpy()[order]]
        chosen = [number for number in order.tolist() if not self._is_changed(ranked.rows[number])][:limit]
        if not chosen or len(self._plan.dataset.classes) == 1:
            return
        rows = torch.tensor(chosen)
        probability = self.predict(ranked.samples, rows) if ranked.probability is None else ranked.probability[rows]
        for number, probabilities in zip(chosen, probability, strict=True):
            yield self._suspect(ranked, number, probabilities.clone(), split)

    def rank_split(self, split: Split) -> RankedSplit:
        """Rank all samples of a split."""
        plan = self._plan
        samples = self._context.samples(plan.dataset, [split], plan.task.data, plan.loading)[split]
        rows = _places(self._tables, split)
        if split == "train":
            counters = self.counters()
            known = torch.nonzero(counters.seen > 0).flatten()
            order = known[torch.argsort(difficulty(counters)[known], descending=True, stable=True)]
            return RankedSplit(samples, rows, order.numpy(), partial(_explain_counters, counters), None)
        probability = self.predict(samples, torch.arange(len(samples)))
        own = probability.gather(1, samples.labels.cpu()[:, None]).flatten()
        return RankedSplit(
            samples, rows, torch.argsort(own, stable=True).numpy(), partial(_explain_probability, own), probability
        )

    def keys(self, ranked: RankedSplit) -> list[str]:
        """Return the keys of all samples of a split."""
        return [self._tables[position].keys[row] for position, row in ranked.rows.tolist()]

    def counters(self) -> Counters:
        """Return the run's counters over its training samples, in the dataset's order."""
        files = self._context.files(self._plan.run_id)
        return concatenate([from_tensors(tensors) for _, tensors in files.index([drop.id for drop in self.drops])])

    def predict(self, samples: Samples, rows: Tensor) -> Tensor:
        """Return the run's probabilities of all classes for some samples, on the CPU: float32 [len(rows), C]."""
        normalize = Normalize(self._plan.task.data, self._plan.task.training.bf16)
        return predict_probabilities(self._network, samples, rows, normalize).cpu()

    def _is_changed(self, rows: NDArray[np.int64]) -> bool:
        return int(rows[1]) in self._changed[int(rows[0])]

    def _suspect(self, ranked: RankedSplit, number: int, probabilities: Tensor, split: Split) -> Suspect:
        position, row = ranked.rows[number].tolist()
        drop, table = self.drops[position], self._tables[position]
        own = int(ranked.samples.labels[number])
        given = float(probabilities[own])
        probabilities[own] = -1
        proposed = int(probabilities.argmax())
        return Suspect(
            drop=drop.id,
            key=table.keys[row],
            content=table.digest_of(row),
            split=split,
            class_name=self._plan.dataset.classes[own],
            proposed=self._plan.dataset.classes[proposed],
            probability=min(1.0, float(probabilities[proposed])),
            own_probability=min(1.0, given),
            why=ranked.explain(number),
            thumbnail=make_thumbnail_of(ranked.samples, number),
        )


def _explain_counters(counters: Counters, number: int) -> str:
    correct, seen = float(counters.correct[number]), float(counters.seen[number])
    return (
        f"in training, classified as the labelled class in {correct / seen:.0%} of the cases; recent cases count more"
    )


def _explain_probability(own: Tensor, number: int) -> str:
    return f"the champion gives the labelled class a probability of {float(own[number]):.1%}"


def _places(tables: Sequence[SampleTable], split: Split) -> NDArray[np.int64]:
    rows = [np.flatnonzero(table.use == USES.index(split)) for table in tables]
    position = np.repeat(np.arange(len(tables)), [len(each) for each in rows])
    return np.stack([position, np.concatenate([*rows, np.array([], np.int64)])], axis=1).astype(np.int64)


def _odd_images(drop_id: str, table: SampleTable, frame: Frame) -> Iterator[str]:
    """Yield a sentence for each used image that is nearly black or white, smaller than the input size, or narrow."""
    short, long = np.minimum(table.width, table.height), np.maximum(table.width, table.height)
    kinds = {
        "nearly black": table.brightness <= DARK,
        "nearly white": table.brightness >= LIGHT,
        "smaller than the network's input": (table.height < frame.height) | (table.width < frame.width),
        "long and narrow": long > NARROW * np.maximum(short, 1),
    }
    for kind, mask in kinds.items():
        for row in np.flatnonzero(mask & table.is_used()).tolist():
            size = f"{table.width[row]} x {table.height[row]} pixels"
            name = name_in_drop(readable_key(table.keys[row]), drop_id)
            yield f"{name} ({table.class_of(row)}): {kind}, {size}"


def _changed_rows(newest: Drop | None, drop: Drop) -> frozenset[int]:
    """Return the rows that amendments have changed, or changed back, since an earlier version of a drop."""
    if newest is None or newest.digest == drop.digest:
        return frozenset()
    then, now = ({change.row: (change.after,) for change in one.changes} for one in (drop, newest))
    return frozenset(row for row in then.keys() | now.keys() if then.get(row) != now.get(row))
