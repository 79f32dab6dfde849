"""Compute the numbers of a study: means and standard errors over seeds, and speed-ups against scratch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from retrain.experiments.grid import FIRST, Cell
from retrain.experiments.kept_runs import EndedRun
from retrain.experiments.settings import Spread, Study
from retrain.recipe.speed_up import first_reaching, speed_up
from retrain.records import Curve, Point

LEVELS = (99, 100)


class Estimate(NamedTuple):
    """A mean over seeds. `of` seeds were run, and `n` of them have a value.

    Mean and error are None if there are too few values.
    """

    mean: float | None
    error: float | None
    """Standard error of the mean. None for fewer than two values."""
    n: int
    of: int

    @property
    def deviation(self) -> float | None:
        """Return the standard deviation over seeds, or None for fewer than two values."""
        return None if self.error is None else self.error * sqrt(self.n)

    def width(self, spread: Spread) -> float | None:
        """Return the half width of the band around the mean. It is also printed after ±."""
        return self.deviation if spread == "deviation" else self.error

    def band(self, spread: Spread) -> dict[str, float]:
        """Return the mean and both ends of the band around it, for a plot."""
        mean, width = self.mean or 0.0, self.width(spread) or 0.0
        return {"mean": mean, "low": mean - width, "high": mean + width}


class Group(NamedTuple):
    """A group of cells that are compared with each other."""

    variant: str
    split: str
    drops: int


class Row(NamedTuple):
    """The numbers of one method in a group."""

    method: str
    best: Estimate
    """Highest accuracy of each seed."""
    final: Estimate
    """Final accuracy of each seed."""
    test: Estimate
    """Test accuracy of each seed's final weights."""
    fitted: Estimate
    """Iterations until each seed reached `Study.fitted` or `Study.fitted_accuracy`."""
    speed_ups: Mapping[str, Mapping[int, Estimate]]
    """L_99 and L_100 against each method of `Study.against` with the same seed."""
    diverged: int
    negative_transfer: bool
    """Whether the mean final accuracy is lower than the mean final accuracy of the first method of `Study.against`. If
    so, earlier learning did harm."""


def estimate(values: Sequence[float | None]) -> Estimate:
    """Return mean and standard error of the values that are not None."""
    found = [value for value in values if value is not None]
    error = stdev(found) / sqrt(len(found)) if len(found) > 1 else None
    return Estimate(fmean(found) if found else None, error, len(found), len(values))


def groups(study: Study, runs: Iterable[EndedRun]) -> dict[Group, list[EndedRun]]:
    """Return the ended runs by group, in the grid's order of variants and splits, then by drops.

    Runs on the first drop have `drops` 1 and the method `FIRST`.
    """
    variants, splits, methods = list(study.variants), list(study.splits), [FIRST, *study.methods]

    def grid_order(one: EndedRun) -> tuple[int, ...]:
        cell = one.cell
        order = variants.index(cell.variant), splits.index(cell.split), cell.drops, methods.index(cell.method)
        return *order, study.seeds.index(cell.seed)

    ordered = sorted(runs, key=grid_order)
    return {group: list(members) for group, members in groupby(ordered, key=lambda one: group_of(one.cell))}


def compared(by_group: Mapping[Group, list[EndedRun]]) -> dict[Group, list[EndedRun]]:
    """Return the groups in which methods are compared: all groups except the first drop's."""
    return {group: members for group, members in by_group.items() if group.drops > 1}


def group_of(cell: Cell) -> Group:
    """Return the group of a cell."""
    return Group(cell.variant, cell.split, cell.drops)


def rows(study: Study, members: Sequence[EndedRun]) -> list[Row]:
    """Return a row for each method in a group. Methods without an ended run are left out."""
    by_method = {method: list(found) for method, found in groupby(members, key=lambda one: one.cell.method)}
    references = {one.cell.seed: final_of(one) for one in by_method.get(study.against[0], [])}
    return [_row(study, by_method, method, references) for method in by_method]


def _row(
    study: Study, by_method: Mapping[str, Sequence[EndedRun]], method: str, references: Mapping[int, float | None]
) -> Row:
    runs = by_method[method]
    reference = estimate([references[one.cell.seed] for one in runs if one.cell.seed in references]).mean
    final = estimate([final_of(one) for one in runs])
    return Row(
        method=method,
        best=estimate([one.record.result.best_accuracy if one.record.result else None for one in runs]),
        final=final,
        test=estimate([one.record.evaluation.accuracy if one.record.evaluation else None for one in runs]),
        fitted=estimate([fitted_at(one.curve, study.fitted, study.fitted_accuracy) for one in runs]),
        speed_ups={
            other: speed_ups(_at_cost(study, by_method.get(other, [])), _at_cost(study, runs))
            for other in study.against
        },
        diverged=sum(one.record.outcome == "diverged" for one in runs),
        negative_transfer=reference is not None and final.mean is not None and final.mean < reference,
    )


def _at_cost(study: Study, runs: Sequence[EndedRun]) -> list[EndedRun]:
    """Return runs with curves over iterations or images, by `Study.cost` (Verwimp et al., section 2)."""
    return [one._replace(curve=over_images(one)) if study.cost == "images" else one for one in runs]


def over_images(one: EndedRun) -> Curve:
    """Return a run's curve over trained images instead of iterations."""
    cost = one.record.result.cost if one.record.result else None
    each = cost.samples / cost.iterations if cost else 1
    points = one.curve.points
    return Curve(
        points=tuple(point.model_copy(update={"iteration": round(each * point.iteration)}) for point in points)
    )


def final_of(one: EndedRun) -> float | None:
    """Return the final accuracy of a run, or None if it diverged."""
    return one.record.result.final_accuracy if one.record.result and one.record.outcome == "completed" else None


def speed_ups(references: Sequence[EndedRun], runs: Sequence[EndedRun]) -> dict[int, Estimate]:
    """Return L_99 and L_100 of runs against the references of the same seeds (Verwimp et al., eq. 2).

    A reference that diverged has no final accuracy. Runs with its seed are not compared.
    """
    by_seed = {one.cell.seed: one.curve for one in references if final_of(one) is not None}
    pairs = [(by_seed[one.cell.seed], one.curve) for one in runs if one.cell.seed in by_seed]
    return {level: estimate([ratio(scratch, other, level) for scratch, other in pairs]) for level in LEVELS}


def ratio(scratch: Curve, other: Curve, level: float) -> float | None:
    """Return L_r, or None if `other` never reaches r percent of scratch's final accuracy."""
    a_scratch = scratch.points[-1].accuracy
    return speed_up(reached_at(scratch, a_scratch), reached_at(other, level / 100 * a_scratch))


def reached_at(curve: Curve, accuracy: float) -> int | None:
    """Return s(f, a) (eq. 1): the first iteration with at least this accuracy. None if it was not reached."""
    return first_reaching(
        [point.iteration for point in curve.points], [point.accuracy for point in curve.points], accuracy
    )


def fitted_at(curve: Curve, loss: float | None, accuracy: float | None = None) -> int | None:
    """Return the iteration of the first evaluation at which the run was fitted.

    This means that the training batches since the previous evaluation had a mean loss of at most `loss`, or, if
    `accuracy` is given, at least this accuracy.
    """

    def is_fitted(point: Point) -> bool:
        if accuracy is not None:
            return point.train_accuracy is not None and point.train_accuracy >= accuracy
        return bool(loss and point.train_loss and point.train_loss <= loss)

    return next((point.iteration for point in curve.points if is_fitted(point)), None)


def on_grid(curve: Curve, every: int) -> Curve:
    """Return a curve with only every `every`-th evaluation, and the last."""
    return Curve(points=(*curve.points[every - 1 : -1 : every], curve.points[-1]))


def on_grids(study: Study, members: Sequence[EndedRun]) -> dict[str, list[Estimate]]:
    """Return each method's L_100 against the first of `Study.against`, for each of `Study.grids`."""
    found: dict[str, list[Estimate]] = {}
    for every in study.grids:
        thinned = [one._replace(curve=on_grid(one.curve, every)) for one in members]
        for row in rows(study, thinned):
            found.setdefault(row.method, []).append(row.speed_ups[study.against[0]][100])
    return found


def measured(members: Sequence[EndedRun]) -> dict[str, dict[str, Estimate]]:
    """Return the measures besides accuracy, by method and then by name."""
    return {
        method: {
            figure: estimate([value for one in runs if isinstance(value := one.measures.get(figure), float)])
            for figure in dict.fromkeys(figure_names(runs))
        }
        for method, found in groupby(members, key=lambda one: one.cell.method)
        if (runs := list(found))
    }


def figure_names(runs: Iterable[EndedRun]) -> Iterator[str]:
    """Yield the names of measures that are single numbers."""
    return (name for one in runs for name, value in one.measures.items() if isinstance(value, float))


class ChainCost(NamedTuple):
    """A method's iterations to scratch's accuracy, over all drops after the first."""

    method: str
    iterations: Estimate
    """Sum over drops, estimated over seeds. A seed that did not reach the accuracy on every drop has no value. Seeds
    without a run of the method, or without the reference's final accuracy on every drop, do not count."""


def accumulated(
    study: Study, by_group: Mapping[Group, Sequence[EndedRun]], variant: str, split: str
) -> list[ChainCost]:
    """Return each method's total iterations to 100 percent of scratch's accuracy on every drop."""
    chains = [
        members
        for group, members in by_group.items()
        if (group.variant, group.split) == (variant, split) and group.drops > 1
    ]
    against = study.against[0]
    return [ChainCost(method, estimate(list(_chain_costs(chains, method, against)))) for method in study.methods]


def _chain_costs(chains: Sequence[Sequence[EndedRun]], method: str, against: str) -> Iterator[int | None]:
    """Yield the sum over drops for each seed, or None for a seed that did not reach the accuracy on every drop."""
    curves = [{one.cell.seed: one.curve for one in members if one.cell.method == method} for members in chains]
    finals = [{one.cell.seed: final_of(one) for one in members if one.cell.method == against} for members in chains]
    for seed in curves[0] if curves else ():
        accuracies = [accuracy for by_seed in finals if (accuracy := by_seed.get(seed)) is not None]
        if len(accuracies) < len(chains):
            continue
        own = [by_seed[seed] for by_seed in curves if seed in by_seed]  # fewer than drops if one of the runs diverged
        reached = list(map(reached_at, own, accuracies))
        costs = [iterations for iterations in reached if iterations is not None]
        yield sum(costs) if len(costs) == len(chains) else None
