"""What a run leaves behind as JSON: its plan, curve, result, evaluation and decision. Read without torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from retrain.errors import RunError
from retrain.layout import Layout
from retrain.records import Curve, Decision, Evaluation, Plan, Point, Record, Result, parsed
from retrain.store.base import Missing, Store
from retrain.stored import R, read_record

DAMAGED = RunError
"""A record of a run's that is damaged is that run's failure, and not the store's, which would be tried again."""


@dataclass(frozen=True)
class RunRecords:
    """The records of one run, each written once under `runs/<run-id>/`."""

    store: Store
    layout: Layout
    run_id: str

    def write_plan(self, plan: Plan) -> None:
        """Write the plan, unless it is there already: the same run id is the same plan."""
        if self._find("plan.json", Plan) is None:
            self._write("plan.json", plan)

    def plan(self) -> Plan:
        """Return the plan. Raises `RunError` if there is no such run."""
        plan = self._find("plan.json", Plan)
        if plan is None:
            raise RunError(f"there is no run {self.run_id} in {self.store.url}/{self.layout.task}/runs")
        return plan

    def write_curve(self, points: Sequence[Point]) -> None:
        """Write the curve, a JSON object a line."""
        lines = b"".join(point.model_dump_json().encode() + b"\n" for point in points)
        self.store.write(self._key("curve.jsonl"), lines)

    def curve(self) -> Curve:
        """Return the curve. Raises `Missing` if the run has not ended."""
        key = self._key("curve.jsonl")
        data, _ = self.store.read(key)
        where = f"{self.store.url}/{key}"
        return Curve(points=tuple(parsed(Point, line, where, DAMAGED) for line in data.splitlines()))

    def write_result(self, result: Result) -> None:
        """Write the result: the run has ended, and its other files are whole."""
        self._write("result.json", result)

    def result(self) -> Result | None:
        """Return the result, or None while the run has not ended."""
        return self._find("result.json", Result)

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Write the evaluation; a later one, against a later champion, replaces it."""
        self._write("evaluation.json", evaluation)

    def evaluation(self) -> Evaluation | None:
        """Return the evaluation, or None."""
        return self._find("evaluation.json", Evaluation)

    def write_decision(self, decision: Decision) -> None:
        """Write the gate's decision."""
        self._write("decision.json", decision)

    def decision(self) -> Decision | None:
        """Return the gate's decision, or None."""
        return self._find("decision.json", Decision)

    def _key(self, name: str) -> str:
        return self.layout.run(self.run_id, name)

    def _write(self, name: str, record: Record) -> None:
        self.store.write(self._key(name), record.to_bytes())

    def _find(self, name: str, kind: type[R]) -> R | None:
        try:
            return read_record(self.store, self._key(name), kind, DAMAGED)[0]
        except Missing:
            return None
