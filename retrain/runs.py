"""One run's files in the store, `runs/<run-id>/`: each is written once, and `result.json` after what it vouches for."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from safetensors.torch import load, save
from torch import Tensor

from retrain.errors import RunError
from retrain.layout import Layout
from retrain.recipe.learning_speed import Counters, concatenate, from_tensors, split, to_tensors
from retrain.records import Curve, Dataset, Decision, Evaluation, Plan, Point, Record, Result
from retrain.store.base import Missing, Store

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class RunFiles:
    """The files of one run."""

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

    def write_model(self, weights: Mapping[str, Tensor]) -> str:
        """Write the weights as safetensors and return their digest."""
        data = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
        self.store.write(self._key("model.safetensors"), data)
        return hashlib.sha256(data).hexdigest()

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that the result vouches for. Raises `RunError` if they are not those."""
        data, _ = self.store.read(self._key("model.safetensors"))
        result = self.result()
        if result is None or result.model_digest != hashlib.sha256(data).hexdigest():
            raise RunError(
                f"{self.store.url}/{self._key('model.safetensors')} is not the model that the run ended with"
            )
        return load(data)

    def write_counters(self, dataset: Dataset, counters: Counters) -> str:
        """Write the learning-speed index, a file a drop, and return its digest."""
        total = hashlib.sha256()
        parts = split(counters, [drop.samples for drop in dataset.drops])
        for drop, part in zip(dataset.drops, parts, strict=True):
            data = save(to_tensors(part))
            self.store.write(self.layout.learning_speed(self.run_id, drop.id), data)
            total.update(data)
        return total.hexdigest()

    def counters(self, dataset: Dataset, known: int) -> Counters:
        """Return the counters over a dataset whose first `known` drops this run trained on; zeros for the others."""
        parts = []
        for drop in dataset.drops[:known]:
            data, _ = self.store.read(self.layout.learning_speed(self.run_id, drop.id))
            part = from_tensors(load(data))
            if len(part.seen) != drop.samples:
                raise RunError(
                    f"{self.run_id} has {len(part.seen)} learning speeds for {drop.samples} samples of {drop.id}"
                )
            parts.append(part)
        return concatenate([*parts, Counters.zeros(sum(drop.samples for drop in dataset.drops[known:]))])

    def write_curve(self, points: Sequence[Point]) -> None:
        """Write the curve, a JSON object a line."""
        lines = b"".join(point.model_dump_json().encode() + b"\n" for point in points)
        self.store.write(self._key("curve.jsonl"), lines)

    def curve(self) -> Curve:
        """Return the curve. Raises `Missing` if the run has not ended."""
        data, _ = self.store.read(self._key("curve.jsonl"))
        return Curve(points=tuple(Point.model_validate_json(line) for line in data.splitlines()))

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
            data, _ = self.store.read(self._key(name))
        except Missing:
            return None
        return kind.model_validate_json(data)
