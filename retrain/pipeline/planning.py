"""From what has landed and what has been done to what to do next: pure functions over records."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from retrain.config import Method, Purpose
from retrain.config.recipe import Recipe, recipe_for
from retrain.config.task import Refresh, Task
from retrain.data.dataset import choose_loading, make_dataset, order_drops
from retrain.pipeline.targets import Measured, age_of, make_target
from retrain.recipe.schedule import longer_scale, resolve_scale
from retrain.records import Dataset, Drop, Origin, Plan, RunRecord


class Request(NamedTuple):
    """What the caller asks for beyond what the task says."""

    method: Method | None = None
    purpose: Purpose = "retrain"


class History(NamedTuple):
    """What has been done: the ledger, the champion's plan, the baseline, and the drops put in quarantine."""

    records: Mapping[str, RunRecord]
    champion: Plan | None
    baseline: Measured | None
    quarantined: Collection[str] = ()


class NoRunNeeded(NamedTuple):
    """No run, and why."""

    reason: str


def make_plan(task: Task, committed: Sequence[Drop], history: History, request: Request) -> Plan | NoRunNeeded:
    """Plan the next run of a task, or say why there is none."""
    champion = history.champion
    dataset = make_dataset(order_drops(committed, known_drops(history)), champion.dataset.classes if champion else ())
    if not dataset.drops:
        return NoRunNeeded("no drop has landed yet; `retrain drop pack SRC --task TASK` commits one")
    if request == Request() and (done := _done(dataset, history)):
        return NoRunNeeded(done)
    method, reason = _method(task, dataset, history, request)
    return _not_yet_run(_assemble(task, dataset, history, method, request.purpose, reason), history.records)


def known_drops(history: History) -> tuple[str, ...]:
    """Return the ids of the drops that the champion saw, in its order, without those found damaged since."""
    seen = history.champion.dataset.drops if history.champion else ()
    return tuple(drop.id for drop in seen if drop.id not in history.quarantined)


def _done(dataset: Dataset, history: History) -> str | None:
    """Say why what has landed asks for nothing: the champion saw it all, or a candidate made of it was judged."""
    champion = history.champion
    if champion and len(dataset.drops) == len(known_drops(history)):
        return f"no drop has landed since champion {champion.run_id}"
    for record in history.records.values():
        if record.decision and record.dataset_digest == dataset.digest:
            how = "promoted, and replaced since" if record.decision.promoted else "refused by the gate"
            return f"{record.run_id} was trained on these drops and {how}; with --method, a run is planned all the same"
    return None


def equal_work(one: Task, other: Task) -> bool:
    """Say whether iterations compare: the same network, image size and training, however it is saved or compiled."""

    def work(task: Task) -> tuple[object, ...]:
        return task.model, task.data.image_size, task.training.model_dump(exclude={"save_seconds", "compile"})

    return work(one) == work(other)


def escalate(plan: Plan) -> Plan | None:
    """Return what follows a run that ended its schedule below the target: a longer one, then scratch, then nothing."""
    if plan.target is None or plan.purpose != "retrain":
        return None
    next_step = {"attempt": plan.attempt + 1, "earlier": (*plan.earlier, plan.run_id), "retry": 0}
    scale = longer_scale(plan.recipe.schedule, scale_of(plan.recipe)) if plan.method == "continuous" else None
    if scale:
        recipe = _at_scale(plan.recipe, scale)
        reason = f"{plan.run_id} missed the target: schedule x{scale:g}"
    elif plan.task.baseline.refresh.on_miss:
        recipe = recipe_for("scratch", plan.task.recipe)
        reason = f"{plan.run_id} missed the target: scratch shows what is reachable (baseline.refresh.on_miss)"
        next_step |= {
            "method": "scratch",
            "parent": None,
            "target": None,
            "origin": _own_origin(plan.task, plan.dataset),
        }
    else:
        return None
    iterations = _iterations(plan.task, plan.dataset, recipe)
    return plan.model_copy(update={**next_step, "recipe": recipe, "iterations": iterations, "reason": reason})


def _method(task: Task, dataset: Dataset, history: History, request: Request) -> tuple[Method, str]:
    """Choose the method: what was asked for, else scratch where continuing is impossible or a refresh is due."""
    if request.purpose == "calibrate":
        return "scratch", "calibration: measures the baseline on this dataset"
    champion, baseline = history.champion, history.baseline
    if champion is None:
        return "scratch", "there is no champion to continue from"
    if request.method and (baseline or request.purpose == "trial"):
        return request.method, f"method {request.method} was asked for"
    if baseline is None:
        return "scratch", "no scratch run with this network and training has measured a baseline"
    if (task.model, task.data.image_size) != (champion.task.model, champion.task.data.image_size):
        return "scratch", f"the network is not that of champion {champion.run_id}"
    if due := _refresh_due(task.baseline.refresh, dataset, champion, baseline):
        return "scratch", f"refresh of the baseline: {due}"
    landed = len(dataset.drops) - len(known_drops(history))
    return "continuous", f"{landed} {'drop' if landed == 1 else 'drops'} landed since {champion.run_id}"


def _refresh_due(refresh: Refresh, dataset: Dataset, champion: Plan, baseline: Measured) -> str | None:
    age = age_of(dataset, baseline)
    if refresh.every and age >= refresh.every:
        return f"it is {age} drops old (baseline.refresh.every: {refresh.every})"
    if refresh.on_new_classes and age and len(dataset.classes) > len(champion.dataset.classes):
        return "new classes have appeared (baseline.refresh.on_new_classes)"
    return None


def _assemble(task: Task, dataset: Dataset, history: History, method: Method, purpose: Purpose, reason: str) -> Plan:
    champion = history.champion
    parent = None if method == "scratch" else champion
    known = len(known_drops(history))
    recipe = recipe_for(method, task.recipe)
    recipe = _at_scale(recipe, resolve_scale(recipe.schedule, _new_share(dataset, known)))
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
        iterations=_iterations(task, dataset, recipe),
        evaluate_every=max(1, round(_epochs(task, dataset, task.training.evaluate_every))),
        target=make_target(task.target.level, dataset, history.baseline, history.records)
        if parent and history.baseline
        else None,
        origin=parent.origin if parent else _own_origin(task, dataset),
        seed=task.seed,
        reason=reason,
        loading=choose_loading(task, dataset),
        replaces_scratch=not any(_is_credited(record, dataset) for record in history.records.values()),
    )


def _is_credited(record: RunRecord, dataset: Dataset) -> bool:
    """Say whether a run has been weighed against a scratch run on this dataset."""
    return record.dataset_digest == dataset.digest and record.savings is not None and record.savings.baseline > 0


def _not_yet_run(plan: Plan, records: Mapping[str, RunRecord]) -> Plan | NoRunNeeded:
    """Go past what has ended: an attempt that missed is followed by the next, one that failed is tried again."""
    while record := records.get(plan.run_id):
        following = escalate(plan) if record.outcome == "missed" else None
        if record.outcome == "failed":
            following = plan.model_copy(update={"retry": plan.retry + 1})
        if following is None:
            return NoRunNeeded(
                f"this has been done: {record.run_id} {record.outcome}; `retrain show {record.run_id}` says more"
            )
        plan = following
    return plan


def _own_origin(task: Task, dataset: Dataset) -> Origin:
    return Origin(seed=task.seed, drops=len(dataset.drops), classes=len(dataset.classes))


def _new_share(dataset: Dataset, known: int) -> float:
    return sum(drop.samples for drop in dataset.drops[known:]) / dataset.samples


def _epochs(task: Task, dataset: Dataset, epochs: float) -> float:
    """Passes over the dataset, in iterations."""
    return epochs * dataset.samples / task.training.batch_size


def _iterations(task: Task, dataset: Dataset, recipe: Recipe) -> int:
    return max(1, round(_epochs(task, dataset, task.training.epochs) * scale_of(recipe)))


def _at_scale(recipe: Recipe, scale: float) -> Recipe:
    return recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"scale": scale})})


def scale_of(recipe: Recipe) -> float:
    """Return the scale of a resolved recipe's schedule."""
    scale = recipe.schedule.scale
    if scale == "auto":
        raise ValueError("a plan's recipe has its scale resolved")
    return scale
