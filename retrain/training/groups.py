"""Groups of validation samples whose accuracies every evaluation reports separately.

A carried target was measured on older data. Its scope is the part of the validation split that it applies to: the drops
and classes of its baseline.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from retrain.data.samples import Samples
from retrain.records import Plan


@dataclass(frozen=True)
class Groups:
    """The samples within the target's scope, and the samples of the drops that the parent was not trained on."""

    scope: Tensor | None
    """bool [N]. None if the target has no scope."""
    classes: int | None
    """Number of classes in the scope. They are the first classes of the dataset. For samples in the scope, predictions
    are limited to these classes."""
    newest: Tensor | None
    """bool [N]. None if the run has no parent."""
    scope_size: int
    newest_size: int

    @classmethod
    def none(cls) -> Self:
        """Return groups without samples."""
        return cls(None, None, None, 0, 0)

    @classmethod
    def of(cls, plan: Plan, val: Samples) -> Self:
        """Return the groups of a plan among the validation samples of its dataset."""
        scope = plan.target.scope if plan.target else None
        inside = _from_drops(plan, val, scope.drops) & (val.labels < scope.classes) if scope else None
        newest = val.drop >= plan.known if plan.parent else None
        return cls(inside, scope.classes if scope else None, newest, _count(inside), _count(newest))


def _from_drops(plan: Plan, val: Samples, ids: tuple[str, ...]) -> Tensor:
    """Return for each sample whether it belongs to one of the drops, bool [N]."""
    positions = [position for position, drop in enumerate(plan.dataset.drops) if drop.id in ids]
    return torch.isin(val.drop, torch.tensor(positions, dtype=val.drop.dtype, device=val.drop.device))


def _count(mask: Tensor | None) -> int:
    return 0 if mask is None else int(mask.sum())
