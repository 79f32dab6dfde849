"""Write the model card of an exported model: its accuracy, its data, and the savings of its training."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from retrain.config import METRIC_NAMES
from retrain.export.configuration import RESIZED
from retrain.export.parity import Parity
from retrain.export.programs import FILES
from retrain.records import Decision, Plan
from retrain.store.champions import was_promoted
from retrain.store.task_store import TaskStore


def render_card(store: TaskStore, plan: Plan, sha256: str, parities: Sequence[Parity]) -> str:
    """Return the card as Markdown. `sha256` is the digest of the weights; `parities` compare programs and network."""
    environment = Environment(  # the output is Markdown, and `_cell` escapes its cells
        loader=PackageLoader("retrain.export"), undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    environment.filters |= {"cell": _cell, "percent": _percent}
    return environment.get_template("card.md").render(
        **_figures(store, plan), sha256=sha256, parities=parities, files=FILES
    )


def _figures(store: TaskStore, plan: Plan) -> dict[str, Any]:
    files, record = store.run(plan.run_id), store.ledger.find(plan.run_id)
    result = files.result()
    assert result is not None  # a run with a model has a result
    return {
        "plan": plan,
        "metric": METRIC_NAMES[plan.metric],
        "data": plan.task.data,
        "resized": RESIZED[plan.task.data.fit],
        "result": result,
        "machine": result.machine,
        "evaluation": record.evaluation if record else files.evaluation(),
        "promotion": _describe_promotion(store, plan.run_id, record.decision if record else files.decision()),
        "savings": record.savings if record else None,
    }


def _describe_promotion(store: TaskStore, run_id: str, decision: Decision | None) -> str:
    """Return a sentence about a run's promotion. `decision` is the decision of the gate, or of a person's verdict."""
    if decision and decision.promoted:
        return "It was promoted to champion."
    if was_promoted(store.champion.read(), run_id):
        return "It was promoted to champion by hand."
    if decision:
        return f"It was not promoted: {'; '.join(decision.reasons)}."
    if store.approvals.find(run_id):
        return "It passed the gate and awaits approval."
    return "It was not a candidate for promotion."


def _cell(value: object) -> str:
    """Return text for a cell of a Markdown table, with special characters escaped."""
    escaped = "".join(f"\\{letter}" if letter in "\\|`*_[]<>#&" else letter for letter in str(value))
    return " ".join(escaped.split())


def _percent(value: float) -> str:
    return f"{value:.2%}"
