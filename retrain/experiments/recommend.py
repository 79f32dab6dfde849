"""Recommend a preset for a task, by short trial runs ("races") of all presets from the same parent within a budget."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import Literal, NamedTuple

from retrain.config import METRIC_NAMES
from retrain.config.loading import load_task
from retrain.config.recipe import Preset, Recipe
from retrain.config.task import Target, Task
from retrain.errors import StudyError
from retrain.experiments.page import format_count, format_percent, format_ratio, markdown_table
from retrain.experiments.statistics import Estimate, estimate
from retrain.experiments.workers import Workers, run_trial, worker_pool
from retrain.pipeline import next_run, planning
from retrain.pipeline.planning import History, Request, same_network
from retrain.pipeline.targets import standard_error
from retrain.records import Drop, Plan, RunRecord
from retrain.store.task_store import TaskStore, open_task_store
from retrain.utils.clock import format_moment, utc_now
from retrain.utils.text import pluralize

RACED: tuple[Preset, ...] = ("default", "naive", "paper")
"""The presets that race. The first preset is preferred if differences are within the measurement error."""

BUDGET_SHARE = 0.25
"""Iterations of all races together, as a share of one full training from scratch. There are more iterations if each
race would otherwise end before its first evaluation."""

Level = Literal["100", "99"]
LEVELS: tuple[Level, ...] = ("100", "99")
"""Percentages of scratch's score at which iterations are compared, the target first."""


class Races(NamedTuple):
    """The results of one preset's races, one race for each seed."""

    preset: Preset
    reached: Mapping[Level, Estimate]
    """Iterations to each level of scratch's accuracy."""
    final: Estimate
    """Score on val at the end of the race. A race ends early if it reaches the target."""
    start: str
    """The reason for the initial weights."""


class Scratch(NamedTuple):
    """The iterations and score of training from scratch on the same dataset."""

    reached: Mapping[Level, float | None]
    """Iterations to each level of scratch's score. None if scratch was not trained on this dataset."""
    early: float | None
    """Scratch's score after the length of a race. None if scratch was not trained on this dataset."""
    source: str
    """The source of these numbers."""
    metric: str = METRIC_NAMES["accuracy"]
    """Name of the score, the task's `target.metric`."""


class Resolution(NamedTuple):
    """The measurement error. Smaller differences between presets mean nothing."""

    iterations: int
    """Iterations between two evaluations."""
    score: float
    """Standard error of one score on val."""


BY_CHANCE = 1.96 * sqrt(2)
"""Half the width of the 95% interval of the difference of two independent scores, in standard errors of one."""


class Advice(NamedTuple):
    """The recommended preset, and the reason."""

    choice: Preset | Literal["scratch"]
    why: str

    @property
    def settings(self) -> str:
        """Return the line of a task file that follows the advice."""
        if self.choice == "scratch":
            return "baseline: {refresh: {every: 1}}"
        return f"recipe: {{preset: {self.choice}}}"


class Recommendation(NamedTuple):
    """The advice, and the results behind it."""

    advice: Advice
    races: Sequence[Races]
    scratch: Scratch
    resolution: Resolution
    plan: Plan
    """The plan of one race. All races have the same parent, drops and length."""
    seeds: int
    used: int
    """Iterations of all races together."""


def recommendation(name: str, budget: int | None, seeds: int, workers: Workers, overrides: Sequence[str] = ()) -> str:
    """Return the advice and the numbers behind it, as Markdown. Raises the errors of `recommend`."""
    task = load_task(name, overrides)
    return "\n\n".join(_page(recommend(open_task_store(task), task, budget, seeds, workers)))


def recommend(store: TaskStore, task: Task, budget: int | None, seeds: int, workers: Workers) -> Recommendation:
    """Race the presets within a budget of iterations. None means a quarter of one training from scratch.

    Raises `StudyError` if no run can be the parent of the races, if the parent's model was removed, or if the budget is
    too small or too large.
    """
    plans = plan_races(store, task, budget, seeds)
    done = {record.run_id for record in store.ledger.read()}
    to_do = [plan for each in plans.values() for plan in each if plan.run_id not in done]
    if to_do:
        _check_parent_model(store, to_do[0])
    with worker_pool(workers) as run_each:
        deque(run_each(run_trial, to_do), maxlen=0)
    records = {record.run_id: record for record in store.ledger.read()}
    races = [_races(preset, each, records) for preset, each in plans.items()]
    plan = plans[RACED[0]][0]
    ended = [race for each in plans.values() for race in each if records[race.run_id].result]
    scratch, resolution = _scratch(store, plan), _resolution(store, plan, races, ended)
    results = [records[race.run_id].result for race in ended]
    used = sum(result.iterations for result in results if result)
    return Recommendation(advise(races, scratch, resolution), races, scratch, resolution, plan, seeds, used)


def _check_parent_model(store: TaskStore, race: Plan) -> None:
    """Raise `StudyError` if `retrain gc` has removed the model from which the races start."""
    assert race.parent  # `_parent` found it
    if removed := store.run(race.parent).removed():
        raise StudyError(
            f"task {store.task}: trial runs on these drops start from the champion's predecessor {race.parent}, and "
            f"`retrain gc` removed its model on {format_moment(removed.at)}: commit another drop, and run this command "
            "before `retrain run`. The trial runs then start from the champion. A larger --keep-last of `retrain "
            "gc` keeps the models of predecessors"
        )


def plan_races(store: TaskStore, task: Task, budget: int | None, seeds: int) -> dict[Preset, list[Plan]]:
    """Return the plans of all races by preset, one for each seed. Raises the errors of `recommend`.

    All races continue from the same parent, on all drops, for at most the same number of iterations. If scratch was
    trained on the same drops, a race ends at scratch's score.
    """
    found = store.drops.committed()
    drops = [store.drops.read(drop) for drop in found.usable]
    past = next_run.history(store, task, utc_now())
    retries = {run_id: record for run_id, record in past.records.items() if record.outcome == "failed"}
    own = {run_id: record for run_id, record in past.records.items() if record.purpose != "trial"}
    past = past._replace(records=own, champion=_parent(store, task, past, drops), quarantined=found.quarantined)
    seeded = {preset: [_race_task(task, preset, task.seed + seed) for seed in range(seeds)] for preset in RACED}
    plans = {preset: [_plan(each, drops, past) for each in tasks] for preset, tasks in seeded.items()}
    limit = _limit(plans[RACED[0]][0], budget, len(RACED) * seeds)
    return {preset: [_shorten(plan, limit, retries) for plan in each] for preset, each in plans.items()}


def _parent(store: TaskStore, task: Task, past: History, drops: Sequence[Drop]) -> Plan:
    """Return the newest plan that lacks a committed drop, among the plans of the champion and of its ancestors.

    Raises `StudyError` if there is no such plan, or if its network differs from the task's.
    """
    landed, plan = {drop.id for drop in drops}, past.champion
    while plan and landed <= {drop.id for drop in plan.dataset.drops}:
        plan = store.run(plan.parent).plan() if plan.parent else None
    if plan is None:
        raise StudyError(
            f"task {task.name}: the presets cannot be compared, because there is no champion or no drop that is new to "
            f"the champion ({pluralize(len(drops), 'drop')} landed): run `retrain run`, commit another drop, and try "
            "again"
        )
    if not same_network(plan.task, task):
        raise StudyError(
            f"task {task.name}: no preset can continue from {plan.run_id}, because its network differs from the "
            "task's: run `retrain run`, commit another drop, and try again"
        )
    return plan


def _race_task(task: Task, preset: Preset, seed: int) -> Task:
    target = Target(level=100, metric=task.target.metric)
    return task.model_copy(update={"recipe": Recipe(preset=preset), "seed": seed, "target": target})


def _plan(task: Task, drops: Sequence[Drop], past: History) -> Plan:
    planned = planning.make_plan(task, drops, past, Request("continuous", "trial"))
    assert isinstance(planned, Plan)  # there are drops, and no trial in this history
    return planned


def _limit(plan: Plan, budget: int | None, races: int) -> int:
    """Return the iterations of one race.

    Raises `StudyError` if they end before the first evaluation, or are more than one training from scratch takes.
    """
    least = races * plan.evaluate_every
    total = budget or max(round(BUDGET_SHARE * _full_schedule(plan)), least)
    if total < least:
        raise StudyError(
            f"a budget of {total:,} iterations is too small for {races} trial runs that are evaluated every "
            f"{plan.evaluate_every:,} iterations: pass --budget {least} or more"
        )
    most = max(races * _full_schedule(plan), least)
    if total > most:
        raise StudyError(
            f"a budget of {total:,} iterations is too large for {races} trial runs: one training from scratch takes "
            f"{_full_schedule(plan):,}: pass --budget {most} or less"
        )
    return total // races


def _full_schedule(plan: Plan) -> int:
    assert plan.scratch  # a race has a parent
    return plan.scratch.schedule


def _shorten(plan: Plan, limit: int, failed: Mapping[str, RunRecord]) -> Plan:
    """Return a plan with a schedule of `limit` iterations, as a retry if the same run has failed before.

    A carried target comes from a baseline on fewer drops. It is removed, because it concerns only the old drops, and a
    warm start has already learnt these.
    """
    schedule = plan.recipe.schedule.model_copy(update={"scale": limit / _full_schedule(plan)})
    recipe = plan.recipe.model_copy(update={"schedule": schedule})
    short = plan.model_copy(update={"recipe": recipe, "iterations": limit})
    if short.target and short.target.provenance == "carried":
        short = short.model_copy(update={"target": None, "stop_rule": None})
    while short.run_id in failed:
        short = short.model_copy(update={"retry": short.retry + 1})
    return short


def _races(preset: Preset, plans: Sequence[Plan], records: Mapping[str, RunRecord]) -> Races:
    results = [records[plan.run_id].result for plan in plans]
    compared = results if plans[0].target else []
    return Races(
        preset,
        {level: estimate([each.reached_at[level] if each else None for each in compared]) for level in LEVELS},
        estimate([each.final_score if each and each.outcome != "diverged" else None for each in results]),
        plans[0].start,
    )


def _scratch(store: TaskStore, plan: Plan) -> Scratch:
    """Return the results of the scratch run that gave the races' target."""
    metric = METRIC_NAMES[plan.metric]
    if plan.target is None:
        return Scratch(
            dict.fromkeys(LEVELS),
            None,
            f"There is no baseline of these drops (trials do not count), so there is no {metric} to reach. The "
            f"{metric} at the end of these short runs decides. This is weak evidence: with a full schedule, another "
            f"preset may be better. Run `retrain baseline` first to compare the iterations to scratch's {metric}.",
            metric,
        )
    iterations = plan.target.baseline_iterations
    reached: dict[Level, float | None] = {"100": iterations, "99": plan.target.baseline_reached_at["99"] or iterations}
    points = store.run(plan.target.baseline_run).curve().points
    early = [point.score for point in points if point.iteration <= plan.iterations]
    source = f"Scratch was measured by {plan.target.baseline_run}."
    return Scratch(reached, early[-1] if early else None, source, metric)


def _resolution(store: TaskStore, plan: Plan, races: Sequence[Races], ended: Sequence[Plan]) -> Resolution:
    """Return the measurement error. If the score is no share of the images, take the error from the evaluations."""
    last = [point for race in ended for point in store.run(race.run_id).curve().points[-1:]]
    if measured := [point.standard_error for point in last if point.standard_error is not None]:
        return Resolution(plan.evaluate_every, max(measured))
    samples = sum(store.drops.read(drop.id).samples("val") for drop in plan.dataset.drops)
    score = max((each.final.mean or 0.0 for each in races), default=0.0)
    return Resolution(plan.evaluate_every, standard_error(score, samples))


def advise(races: Sequence[Races], scratch: Scratch, resolution: Resolution) -> Advice:
    """Return the preset that reaches scratch's score soonest with every seed, or scratch if that is sooner.

    If no preset reaches it, the iterations to 99 percent of this score are compared, including scratch's. If no preset
    reaches 99 percent, the highest final score decides.
    """
    for level in LEVELS:
        sure = {each.preset: each.reached[level] for each in races}
        means = {preset: each.mean for preset, each in sure.items() if each.mean is not None and each.n == each.of}
        of_scratch = scratch.reached[level]
        if not means or of_scratch is None:
            continue
        best = _preferred(means, min(means.values()) + resolution.iterations, smaller=True)
        what = f"scratch's {scratch.metric}" if level == "100" else f"{level}% of scratch's {scratch.metric}"
        if means[best] < of_scratch:
            return Advice(
                best,
                f"it reached {what} after {means[best]:,.0f} iterations, and scratch after {of_scratch:,.0f} "
                f"({of_scratch / means[best]:.1f} times as many)",
            )
        return Advice("scratch", f"no preset reached {what} sooner than scratch's {of_scratch:,.0f} iterations")
    finals = {each.preset: each.final.mean for each in races if each.final.mean is not None}
    if not finals:
        return Advice("scratch", "the trial runs of all presets diverged")
    best = _preferred(finals, max(finals.values()) - resolution.score, smaller=False)
    ended = _describe_end(best, finals, resolution)
    if scratch.reached["100"] is None:
        return Advice(best, f"{ended}; all presets were trained for the same number of iterations")
    if scratch.early is not None and scratch.early > finals[best] + resolution.score:
        return Advice(
            "scratch",
            f"no preset came within 1% of scratch's final {scratch.metric}. After the same number of iterations, "
            f"scratch was at {scratch.early:.2%}, and the best preset ({best}) at {finals[best]:.2%}",
        )
    return Advice(best, f"no preset came within 1% of scratch's final {scratch.metric}; {ended}")


def _describe_end(best: Preset, finals: Mapping[Preset, float], resolution: Resolution) -> str:
    """Return the final score of the best preset, and the presets that are too close to it to be distinguished."""
    least = finals[best] - resolution.score
    close = [f"{name} at {value:.2%}" for name, value in finals.items() if name != best and value >= least]
    if close:
        return f"it ended at {finals[best]:.2%}, and {' and '.join(close)}: no clear difference"
    return f"it ended highest of the presets, at {finals[best]:.2%}"


def _preferred(figures: Mapping[Preset, float], bound: float, smaller: bool) -> Preset:
    """Return the first of `RACED` if it is within the bound, else the best."""
    first = figures.get(RACED[0])
    if first is not None and (first <= bound if smaller else first >= bound):
        return RACED[0]
    return min(figures, key=lambda preset: figures[preset] if smaller else -figures[preset])


def _page(found: Recommendation) -> Iterator[str]:
    advice, races, scratch, resolution, plan, seeds, used = found
    yield f"Use {advice.choice}: {advice.why}."
    yield f"In the task file: `{advice.settings}`"
    titles = [
        "preset",
        f"iterations to scratch's {scratch.metric}",
        "iterations to 99% of it",
        "L_100",
        "L_99",
        f"{scratch.metric} after at most {plan.iterations:,}",
    ]
    yield markdown_table(titles, [_scratch_line(scratch), *(_line(each, scratch) for each in races)])
    chosen = [each.start for each in races if each.preset == "default"]
    yield f"Preset default: {chosen[0]}"
    yield (
        f"{pluralize(len(races) * seeds, 'trial run')} from {plan.parent}, each of at most {plan.iterations:,} "
        f"iterations, took {used:,} iterations together; one full training from scratch takes "
        f"{_full_schedule(plan):,}. The task's savings do not count trial runs. {scratch.source} L_r is scratch's "
        f"iterations to its final {scratch.metric}, divided by the preset's iterations to r percent of this "
        f"{scratch.metric}. Above 1, the preset is faster. / means not reached. The L_99 of scratch itself is 1 or "
        "more."
    )
    error = 100 * resolution.score
    yield (
        f"{pluralize(seeds, 'seed')}. The {scratch.metric} on val has a standard error of {error:.1f} points. Smaller "
        f"differences, and differences below {resolution.iterations:,} iterations, are ignored. A difference of up to "
        f"{BY_CHANCE * error:.1f} points can be due to chance, too."
    )


def _line(races: Races, scratch: Scratch) -> list[str]:
    ratios = [_ratio(scratch, races.reached[level]) for level in LEVELS]
    return [
        races.preset,
        *(format_count(races.reached[level]) for level in LEVELS),
        *ratios,
        format_percent(races.final),
    ]


def _ratio(scratch: Scratch, reached: Estimate) -> str:
    """Return L_r of the mean iterations."""
    own = scratch.reached["100"]
    ratio = own / reached.mean if own and reached.mean else None
    return format_ratio(Estimate(ratio, None, reached.n, reached.of))


def _scratch_line(scratch: Scratch) -> list[str]:
    alone = {level: estimate([each] if (each := scratch.reached[level]) else []) for level in LEVELS}
    early = Estimate(scratch.early, None, 1, 1)
    ratios = [_ratio(scratch, alone[level]) for level in LEVELS]
    return ["scratch", *(format_count(alone[level]) for level in LEVELS), *ratios, format_percent(early)]
