"""Rank samples by how likely their label is wrong, from what the champion's training has counted and what it predicts.

A training sample is judged by its learning speed (Verwimp et al., eq. 6) and mean loss: both were counted while it was
trained on, so they cost nothing. A held-out sample was never trained on, so the champion's probability of its class
tells: the lower, the likelier an error ("self-confidence" of Northcutt et al., Confident Learning, 2021).
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
from retrain.data.indexing import read_or_make_table
from retrain.data.likeness import Alike, find_alike
from retrain.data.sample_table import USES, SampleTable
from retrain.data.samples import Samples
from retrain.errors import RunError
from retrain.pipeline.context import Context
from retrain.pipeline.error_analysis import make_thumbnail_of
from retrain.pipeline.evaluate import load_network
from retrain.recipe.learning_speed import Counters, difficulty, from_tensors
from retrain.records import Drop, Plan
from retrain.records.errors import Suspect
from retrain.training.evaluation import predict_probabilities

DARK, LIGHT = 8, 247
"""Mean grey values (0..255) up to which, and from which on, an image is nearly black or white."""
NARROW = 4
"""A longer side of more than so many shorter ones is long."""


class Judged(NamedTuple):
    """The N samples of one split of a dataset, in its order, and how likely each label is wrong."""

    samples: Samples
    place: NDArray[np.int64]
    """int64 [N, 2]: the drop's position in the dataset, and the row in its table."""
    rank: NDArray[np.int64]
    """Samples from the likeliest error to the unlikeliest; those that tell nothing are left out."""
    explain: Callable[[int], str]
    """Says of a sample what makes it suspect."""
    probability: Tensor | None
    """[N, C], where it was predicted already."""


class Review(NamedTuple):
    """What a person should look at."""

    run_id: str
    """The champion, by what it has learnt."""
    trained: list[Suspect]
    """Training samples, the likeliest label errors first."""
    held_out: list[Suspect]
    """Those of val and test."""
    alike: list[Alike]
    odd: list[str]
    """Odd images, in sentences."""
    drops: tuple[Drop, ...]
    classes: tuple[str, ...]


def review_data(context: Context, task: Task, limit: int) -> Review:
    """Return the `limit` likeliest label errors among training samples, as many among held-out ones, and what is odd.

    Samples that were amended since the champion's run are left out of the errors. Raises `RunError` if there is no
    champion, or if some of its samples were erased.
    """
    champion = context.store.champion.read().run_id
    if champion is None:
        raise RunError(f"task {task.name} has no champion yet, so nothing has been learnt: `retrain run` trains one")
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
    """Write suspects as a table of corrections: a person deletes the lines that are wrong."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("drop", "key", "content", "class", "reason"))
        writer.writeheader()
        for one in suspects:
            reason = f"was {one.class_name}; {one.why}"
            writer.writerow(
                {"drop": one.drop, "key": one.key, "content": one.content, "class": one.proposed, "reason": reason}
            )


class Reviewer:
    """Ranks what one run was trained and measured on."""

    def __init__(self, context: Context, plan: Plan) -> None:
        self._context, self._plan = context, plan
        self.drops = context.drops(plan.dataset)
        if any(drop.erased_since for drop in self.drops):
            raise RunError(
                f"samples of champion {plan.run_id} were erased, so its counts no longer fit: `retrain run` trains "
                "the next one"
            )
        self._tables = [read_or_make_table(drop, context.store) for drop in self.drops]
        newest = {drop.id: drop for drop in context.store.drops.readable()}
        self._changed = [_changed_rows(newest.get(drop.id), drop) for drop in self.drops]
        self._network = load_network(context.files(plan.run_id), plan, context.factories, context.device)

    def suspects(self, split: Split, limit: int) -> Iterator[Suspect]:
        """Yield the likeliest errors of a split, with the class that the champion proposes instead."""
        judged = self.judge(split)
        chosen = [number for number in judged.rank.tolist() if not self._is_changed(judged.place[number])][:limit]
        if not chosen:
            return
        rows = torch.tensor(chosen)
        probability = self.predict(judged.samples, rows) if judged.probability is None else judged.probability[rows]
        for number, likely in zip(chosen, probability, strict=True):
            yield self._suspect(judged, number, likely.clone(), split)

    def judge(self, split: Split) -> Judged:
        """Rank all samples of a split."""
        plan = self._plan
        samples = self._context.samples(plan.dataset, [split], plan.task.data, plan.loading)[split]
        place = _places(self._tables, split)
        if split == "train":
            counters = self.counters()
            known = torch.nonzero(counters.seen > 0).flatten()
            order = known[torch.argsort(difficulty(counters)[known], descending=True, stable=True)]
            return Judged(samples, place, order.numpy(), partial(_tell_learnt, counters), None)
        probability = self.predict(samples, torch.arange(len(samples)))
        own = probability.gather(1, samples.labels.cpu()[:, None]).flatten()
        return Judged(
            samples, place, torch.argsort(own, stable=True).numpy(), partial(_tell_probability, own), probability
        )

    def keys(self, judged: Judged) -> list[str]:
        """Return the keys of all samples of a split."""
        return [self._tables[position].keys[row] for position, row in judged.place.tolist()]

    def counters(self) -> Counters:
        """Return the run's counters over its training samples, in the dataset's order."""
        files = self._context.files(self._plan.run_id)
        parts = [from_tensors(tensors) for _, tensors in files.index([drop.id for drop in self.drops])]
        return Counters(*(torch.cat([getattr(part, name) for part in parts]) for name in ("seen", "correct", "loss")))

    def predict(self, samples: Samples, rows: Tensor) -> Tensor:
        """Return the run's probabilities of all classes for some samples, on the CPU: float32 [len(rows), C]."""
        normalize = Normalize(self._plan.task.data, self._plan.task.training.bf16)
        return predict_probabilities(self._network, samples, rows, normalize).cpu()

    def _is_changed(self, place: NDArray[np.int64]) -> bool:
        return int(place[1]) in self._changed[int(place[0])]

    def _suspect(self, judged: Judged, number: int, likely: Tensor, split: Split) -> Suspect:
        position, row = judged.place[number].tolist()
        drop, table = self.drops[position], self._tables[position]
        own = int(judged.samples.labels[number])
        given = float(likely[own])
        likely[own] = -1
        proposed = int(likely.argmax())
        return Suspect(
            drop=drop.id,
            key=table.keys[row],
            content=table.digest_of(row),
            split=split,
            class_name=self._plan.dataset.classes[own],
            proposed=self._plan.dataset.classes[proposed],
            probability=min(1.0, float(likely[proposed])),
            own_probability=min(1.0, given),
            why=judged.explain(number),
            thumbnail=make_thumbnail_of(judged.samples, number),
        )


def _tell_learnt(counters: Counters, number: int) -> str:
    correct, seen = float(counters.correct[number]), float(counters.seen[number])
    return f"classified as labelled in {correct:.3g} of {seen:.3g} views"


def _tell_probability(own: Tensor, number: int) -> str:
    return f"its class has a probability of {float(own[number]):.1%}"


def _places(tables: Sequence[SampleTable], split: Split) -> NDArray[np.int64]:
    rows = [np.flatnonzero(table.use == USES.index(split)) for table in tables]
    position = np.repeat(np.arange(len(tables)), [len(each) for each in rows])
    return np.stack([position, np.concatenate([*rows, np.array([], np.int64)])], axis=1).astype(np.int64)


def _odd_images(drop_id: str, table: SampleTable, frame: Frame) -> Iterator[str]:
    """Yield the used images that are nearly black or white, smaller than the frame, or long and narrow."""
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
            yield f"{table.keys[row]} of drop {drop_id} ({table.class_of(row)}): {kind}, {size}"


def _changed_rows(newest: Drop | None, drop: Drop) -> frozenset[int]:
    """Return the rows that an amendment has changed, or changed back, since a version of a drop."""
    if newest is None or newest.digest == drop.digest:
        return frozenset()
    then, now = ({change.row: (change.after,) for change in one.changes} for one in (drop, newest))
    return frozenset(row for row in then.keys() | now.keys() if then.get(row) != now.get(row))
