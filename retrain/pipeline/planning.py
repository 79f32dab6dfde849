"""Plan the next run from the landed drops and the task's history: pure functions over records."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import mean
from types import MappingProxyType
from typing import NamedTuple

from retrain.config import Method, Purpose
from retrain.config.fields import identity
from retrain.config.loading import task_argument
from retrain.config.recipe import recipe_for
from retrain.config.task import AutoAverage, Averaging, NoAverage, PowerAverage, Refresh, Task
from retrain.data.dataset import amended_drops, choose_loading, make_dataset, order_drops
from retrain.pipeline.gate import gate_warnings
from retrain.pipeline.lengths import evaluation_interval, scale_of, scaled_recipe, schedule_length, with_scale
from retrain.pipeline.plan_warnings import (
    correction_warnings,
    length_warnings,
    near_chance_warning,
    setting_warnings,
    target_warnings,
    trial_warnings,
)
from retrain.pipeline.start import read_missing_fit, resolve_start
from retrain.pipeline.targets import ScratchRun, age_of, estimate_scratch, make_stop_rule, make_target, why_no_target
from retrain.pipeline.trigger import TriggerState
from retrain.recipe.schedule import longer_scale
from retrain.records import Dataset, Drop, Origin, Plan, RunRecord, StopRule, Target
from retrain.records.ledger import DIVERGED
from retrain.utils.text import pluralize

RECENT_RUNS = 3
"""Number of earlier retrainings that a plan's reason summarizes."""


SETTINGS_WAIT = "; the changed settings are used from the next drop on, or now with --method scratch"
"""Text for the reason why no run is planned, if the champion was trained with other settings."""


class Request(NamedTuple):
    """The caller's request, in addition to the task's settings."""

    method: Method | None = None
    purpose: Purpose = "retrain"


class History(NamedTuple):
    """The history of a task: the ledger, the champion's plan, the scratch runs, and the quarantined drops."""

    records: Mapping[str, RunRecord]
    champion: Plan | None
    scratch_runs: Sequence[ScratchRun] = ()
    """Scratch runs whose iterations are comparable with the task's (`equal_work`), newest first."""
    quarantined: Collection[str] = ()
    awaiting: Mapping[str, str] = MappingProxyType({})
    """A sentence for each candidate whose approval is not completed, by the digest of its dataset."""
    trained_on_erased: Collection[str] = ()
    """Runs whose models were trained on samples that have been erased since."""

    def baseline_for(self, dataset: Dataset) -> ScratchRun | None:
        """Return the scratch run that targets come from: the newest one on this dataset, or else the newest of all."""
        same = (run for run in self.scratch_runs if run.record.dataset_digest == dataset.digest)
        return next(same, self.scratch_runs[0] if self.scratch_runs else None)


class NoRunNeeded(NamedTuple):
    """The reason why no run is planned."""

    reason: str
    deferred: TriggerState | None = None
    """The state of the trigger that postpones a run. None if no run is needed."""
    awaits_approval: bool = False
    """Whether no run is needed because a candidate awaits approval."""


def make_plan(task: Task, committed: Sequence[Drop], history: History, request: Request) -> Plan | NoRunNeeded:
    """Plan the next run of a task, or return why there is none."""
    champion = history.champion
    drops = order_drops(committed, known_drops(history))
    dataset = make_dataset(drops, champion.dataset.classes if champion else ())
    if not dataset.drops:
        pack = f"retrain drop pack SRC --task {task_argument(task.name)}"
        return NoRunNeeded(f"no drop has landed yet: commit one with `{pack}`")
    if not dataset.samples:
        return NoRunNeeded(
            "no training image has landed yet: all samples of the drops are held out; add a drop with training images"
        )
    if not any(drop.samples("val") for drop in drops):
        return NoRunNeeded("no validation image is left to evaluate a run on: the next drop must contain some")
    if not any(drop.samples("test") for drop in drops):
        return NoRunNeeded("no test image is left to compare models on: the next drop must contain some")
    if request == Request() and (done := _why_done(task, dataset, history)):
        return done
    baseline = history.baseline_for(dataset)
    unusable = why_no_target(task.target, dataset, drops, baseline)
    usable = None if unusable else baseline
    method, reason = _choose_method(task, dataset, history, request, usable, unusable)
    plan = _assemble(task, drops, dataset, history, method, request.purpose, reason, usable)
    return _next_unrecorded_run(plan, history.records, repeats_decided=request == Request())


def must_unlearn(task: Task, history: History) -> bool:
    """Return whether the champion was trained on erased samples, and the task's policy is to retrain."""
    if task.erase.policy == "keep" or history.champion is None:
        return False
    return learnt_from(history.champion.run_id, history.trained_on_erased, history.records)


def learnt_from(run_id: str | None, runs: Collection[str], records: Mapping[str, RunRecord | Plan]) -> bool:
    """Return whether a run or one of its ancestors is among `runs`."""
    while run_id is not None and run_id not in runs:
        record = records.get(run_id)
        run_id = record.parent if record else None
    return run_id is not None


def known_drops(history: History) -> tuple[str, ...]:
    """Return the ids of the champion's drops in its order, without the drops that have been quarantined since."""
    seen = history.champion.dataset.drops if history.champion else ()
    return tuple(drop.id for drop in seen if drop.id not in history.quarantined)


def _why_done(task: Task, dataset: Dataset, history: History) -> NoRunNeeded | None:
    """Return why the dataset needs no run: the champion was trained on it, or its candidate was already decided.

    Only runs that ended after the champion's run count. After a rollback, these are the runs that it undid. An earlier
    run on this dataset was replaced by a run on other versions of the drops: a correction has been undone since.
    """
    champion, unlearn = history.champion, must_unlearn(task, history)
    if (
        not unlearn
        and champion
        and len(dataset.drops) == len(known_drops(history))
        and not amended_drops(dataset, champion.dataset)
    ):
        changed = "" if equal_work(task, champion.task) else SETTINGS_WAIT
        return NoRunNeeded(f"no drop has landed since champion {champion.run_id}{changed}")
    if awaits := history.awaiting.get(dataset.digest):
        return NoRunNeeded(awaits, awaits_approval=True)
    for record in reversed(list(history.records.values())):
        if champion and record.run_id == champion.run_id:
            break
        if unlearn and learnt_from(record.run_id, history.trained_on_erased, history.records):
            continue
        if record.decision and record.dataset_digest == dataset.digest:
            how = "promoted, and later replaced" if record.decision.promoted else "refused"
            why = "".join(f" ({reason})" for reason in record.decision.reasons[:1])
            again = "to train on them again, pass --method and another --seed"
            return NoRunNeeded(f"{record.run_id} was trained on these drops and {how}{why}; {again}")
    return None


def equal_work(one: Task, other: Task) -> bool:
    """Return whether the iterations of two tasks are comparable: same network, image size, training and metric.

    They may differ in `save_seconds`, `compile` and `stopping`.
    """

    def work(task: Task) -> tuple[object, ...]:
        trained = identity(task.model), task.data.frame, identity(task.training), identity(task.training.averaging)
        return *trained, task.target.metric

    return work(one) == work(other)


def same_network(one: Task, other: Task) -> bool:
    """Return whether two tasks have the same network, image format and pretrained weights."""
    return (identity(one.model), one.data.frame) == (identity(other.model), other.data.frame)


def escalate(plan: Plan) -> Plan | None:
    """Return the plan that follows a missed target: a longer schedule, then scratch, then None."""
    if plan.target is None or plan.purpose != "retrain":
        return None
    next_step = {"attempt": plan.attempt + 1, "earlier": (*plan.earlier, plan.run_id), "retry": 0}
    scale = longer_scale(plan.recipe.schedule, scale_of(plan.recipe)) if plan.method == "continuous" else None
    if scale:
        recipe = with_scale(plan.recipe, scale)
        reason = f"{plan.run_id} missed the target: the schedule is now {scale:g} times as long as scratch's"
    elif plan.task.baseline.refresh.on_miss:
        recipe = recipe_for("scratch", plan.task.recipe)
        reason = (
            f"{plan.run_id} missed the target: a scratch run measures the baseline again (baseline.refresh.on_miss)"
        )
        next_step |= {
            "method": "scratch",
            "parent": None,
            "target": None,
            "scratch": None,
            "stop_rule": None,
            "start": "",
            "warnings": (),
            "origin": _own_origin(plan.task, plan.dataset),
        }
    else:
        return None
    iterations = schedule_length(plan.task, plan.dataset, recipe)
    return plan.model_copy(update={**next_step, "recipe": recipe, "iterations": iterations, "reason": reason})


def _choose_method(
    task: Task,
    dataset: Dataset,
    history: History,
    request: Request,
    baseline: ScratchRun | None,
    unusable: str | None,
) -> tuple[Method, str]:
    """Return the method of a run, and the reason. A requested method applies unless the run has to be from scratch.

    Without a request, the method is `scratch` if the baseline is due for a refresh, and `continuous` otherwise.
    """
    if request.purpose == "calibrate":
        return "scratch", "calibration: measures the baseline on this dataset"
    champion = history.champion
    if champion is None:
        return "scratch", "there is no champion to continue from"
    if request.purpose != "trial" and must_unlearn(task, history):
        return "scratch", f"champion {champion.run_id} learnt from samples that were erased (erase.policy: retrain)"
    if request.method and (baseline or request.purpose == "trial"):
        return request.method, f"method {request.method} was requested"
    if baseline is None:
        return "scratch", unusable or "there is no baseline"
    if not same_network(task, champion.task):
        return "scratch", f"the network differs from the network of champion {champion.run_id}"
    if due := _refresh_due(task.baseline.refresh, dataset, champion, baseline):
        return "scratch", f"refresh of the baseline: {due}"
    landed = len(dataset.drops) - len(known_drops(history))
    amended = len(amended_drops(dataset, champion.dataset))
    counts = {"landed": landed, "amended": amended}
    changes = [f"{pluralize(count, 'drop')} {what}" for what, count in counts.items() if count]
    return "continuous", f"{', '.join(changes) or 'no drop landed'} since {champion.run_id}"


def _earlier_retrainings(dataset: Dataset, records: Iterable[RunRecord]) -> Sequence[tuple[float, str]]:
    """Return the iterations of the last retrainings, as shares of scratch's iterations, with their outcomes.

    Retrainings on this dataset do not count: the plan of a retraining must stay the same after it has ended.
    """
    counted = [
        (record.result.iterations / record.scratch.iterations, record.outcome)
        for record in records
        if record.result
        and record.scratch
        and record.purpose == "retrain"
        and record.outcome in ("reached", "plateau", "missed")
        and record.dataset_digest != dataset.digest
    ]
    return counted[-RECENT_RUNS:]


def saved_shares(dataset: Dataset, records: Iterable[RunRecord]) -> tuple[float, ...]:
    """Return the shares of scratch's iterations that the last retrainings saved."""
    return tuple(1 - share for share, _ in _earlier_retrainings(dataset, records))


def _summarize_earlier(earlier: Sequence[tuple[float, str]], expected: float) -> str:
    """Return a sentence with the iterations of the last retrainings, and the iterations expected of this one."""
    shares = [f"{share:.0%}" + ("" if outcome == "reached" else f" ({outcome})") for share, outcome in earlier]
    expectation = f"of s_scratch; about {expected:,.0f} iterations are expected"
    if len(shares) == 1:
        return f"the last retraining on another dataset took {shares[0]} {expectation}"
    took = f"{', '.join(shares[:-1])} and {shares[-1]}"
    return f"the last {len(shares)} retrainings on other datasets took {took} {expectation}"


def _expect_iterations(
    earlier: Sequence[tuple[float, str]], s_scratch: float, length: int, rule: StopRule | None, target: Target | None
) -> float:
    """Return the mean iterations of the last retrainings, scaled to this dataset and within this run's own limits.

    `length` is the length of the run's schedule. A stop rule ends a run at a carried target before this length.
    """
    at_target = length
    if rule and rule.improve_until and target and target.scope:
        at_target = min(length, 2 * rule.improve_until)
    return mean(min(share * s_scratch, at_target if outcome == "reached" else length) for share, outcome in earlier)


def _refresh_due(refresh: Refresh, dataset: Dataset, champion: Plan, baseline: ScratchRun) -> str | None:
    age = age_of(dataset, baseline)
    if refresh.every and age >= refresh.every:
        return f"it is {age} drops old (baseline.refresh.every: {refresh.every})"
    if refresh.on_new_classes and age and len(dataset.classes) > len(champion.dataset.classes):
        return "new classes have appeared (baseline.refresh.on_new_classes)"
    return None


def _assemble(
    task: Task,
    drops: Sequence[Drop],
    dataset: Dataset,
    history: History,
    method: Method,
    purpose: Purpose,
    reason: str,
    baseline: ScratchRun | None,
) -> Plan:
    parent = None if method == "scratch" else history.champion
    known = len(known_drops(history))
    record = history.records.get(parent.run_id) if parent else None
    recipe, start = resolve_start(task, scaled_recipe(task, method, dataset, known), parent, record)
    target = make_target(task.target.level, dataset, baseline, history.records) if parent and baseline else None
    schedule = schedule_length(task, dataset, recipe_for("scratch", task.recipe))
    scratch = estimate_scratch(schedule, dataset, history.scratch_runs) if parent else None
    earlier = _earlier_retrainings(dataset, history.records.values())
    evaluate_every = evaluation_interval(task, dataset, sum(drop.samples("val") for drop in drops))
    loading = choose_loading(task, dataset)
    length = schedule_length(task, dataset, recipe)
    missing_fit = read_missing_fit(record)
    stop_rule = make_stop_rule(task, recipe, target, scratch, evaluate_every, missing_fit, baseline)
    if earlier and scratch:
        expected = _expect_iterations(earlier, scratch.iterations, length, stop_rule, target)
        reason += f"; {_summarize_earlier(earlier, expected)}"
    warnings = [*setting_warnings(task, dataset, schedule, evaluate_every), *target_warnings(target, baseline)]
    warnings += correction_warnings(task, target, baseline, dataset, drops)
    if parent and purpose == "trial":
        warnings += trial_warnings(task, parent, dataset)
    if method == "scratch":
        latest = history.baseline_for(dataset)
        weak = near_chance_warning(task, latest, drops, schedule) if latest else None
        warnings += [weak] if weak else length_warnings(task, dataset.samples, schedule)
    return Plan(
        task=task,
        method=method,
        purpose=purpose,
        attempt=0,
        earlier=(),
        retry=0,
        parent=parent.run_id if parent else None,
        known=known,
        dataset=dataset,
        recipe=recipe,
        iterations=length,
        evaluate_every=evaluate_every,
        metric=task.target.metric,
        target=target,
        stop_rule=stop_rule,
        averaging=resolve_averaging(task),
        origin=parent.origin if parent else _own_origin(task, dataset),
        seed=task.seed,
        reason=reason,
        start=start,
        warnings=(*warnings, *gate_warnings(task.gate, drops, parent is not None, task.target.metric)),
        scratch=scratch,
        loading=loading,
        shuffle_shards=task.data.stream.shuffle_shards if loading.kind == "stream" else None,
        replaces_scratch=not any(_is_credited(record, dataset) for record in history.records.values()),
    )


def resolve_averaging(task: Task) -> Averaging:
    """Return the averaging of a run. `auto` is resolved by the preset."""
    averaging = task.training.averaging
    if not isinstance(averaging, AutoAverage):
        return averaging
    return PowerAverage() if task.recipe.preset == "default" else NoAverage()


def _is_credited(record: RunRecord, dataset: Dataset) -> bool:
    """Return whether a run on this dataset was already credited with scratch's iterations."""
    return record.dataset_digest == dataset.digest and record.savings is not None and record.savings.baseline > 0


def _next_unrecorded_run(plan: Plan, records: Mapping[str, RunRecord], repeats_decided: bool) -> Plan | NoRunNeeded:
    """Return the plan of a retraining's next run: `plan`, its escalation after a miss, or its retry after a failure.

    `repeats_decided`: also repeat a run that the gate has decided on. Its model was compared with an earlier champion.
    """
    while record := records.get(plan.run_id):
        following = escalate(plan) if record.outcome == "missed" else None
        if record.outcome == "failed" or (repeats_decided and record.decision):
            following = plan.model_copy(update={"retry": plan.retry + 1})
        if following is None:
            advice = f"see `retrain show {record.run_id}`, or pass another --seed"
            if record.outcome == "diverged":
                advice = DIVERGED
            return NoRunNeeded(f"this run has ended: {record.run_id} {record.outcome}; {advice}")
        plan = following
    return plan


def _own_origin(task: Task, dataset: Dataset) -> Origin:
    return Origin(seed=task.seed, drops=len(dataset.drops), classes=len(dataset.classes))
