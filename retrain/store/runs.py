"""The files of one run, `runs/<run-id>/`: each is written once, and `result.json` after those that it vouches for."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from retrain.errors import RunError
from retrain.recipe.learning_speed import STORED_DTYPE, Counters, from_tensors, split, to_tensors
from retrain.records import Curve, Dataset, Decision, DropRef, Evaluation, Plan, Point, Record, Result, parse_record
from retrain.store.base import Missing, ObjectStore, R, read_record
from retrain.store.layout import Layout
from retrain.utils.parallel import map_ahead

DAMAGED = RunError
"""A record of a run's that is damaged is that run's failure, and not the store's, which would be tried again."""


@dataclass(frozen=True)
class RunRecords:
    """The records of one run, each written once under `runs/<run-id>/`."""

    store: ObjectStore
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
        return Curve(points=tuple(parse_record(Point, line, where, DAMAGED) for line in data.splitlines()))

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


READ_AHEAD = 4
"""Files of the index in memory at once: those of large drops are large."""


class RunFiles(RunRecords):
    """The files of one run: its records, its model, and its learning-speed index."""

    def write_model(self, weights: Mapping[str, Tensor]) -> str:
        """Write the weights as safetensors and return their digest."""
        return self._keep("model.safetensors", weights)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that the result vouches for. Raises `RunError` if they are not those, or no numbers."""
        result = self.result()
        return self._vouched("model.safetensors", result.model_digest if result else None, "model")

    def write_moments(self, moments: Mapping[str, Tensor]) -> str:
        """Write the optimiser's moments, for runs that go on with them, and return their digest."""
        return self._keep("moments.safetensors", moments)

    def moments(self) -> dict[str, Tensor]:
        """Return the optimiser's moments. Raises `RunError` if the run kept none, or they are not those."""
        result = self.result()
        if result is None or result.moments_digest is None:
            raise RunError(
                f"{self.run_id} kept no optimiser state to go on with: train it with training.optimizer_state: kept"
            )
        return self._vouched("moments.safetensors", result.moments_digest, "optimiser state")

    def _keep(self, name: str, tensors: Mapping[str, Tensor]) -> str:
        data = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
        self.store.write(self._key(name), data)
        return hashlib.sha256(data).hexdigest()

    def _vouched(self, name: str, sha256: str | None, what: str) -> dict[str, Tensor]:
        where = f"{self.store.url}/{self._key(name)}"
        try:
            data, _ = self.store.read(self._key(name))
        except Missing as missing:
            raise RunError(f"{where} is not there") from missing
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RunError(f"{where} is not the {what} that the run ended with")
        tensors = _loaded(data, where)
        for tensor_name, tensor in tensors.items():
            if tensor.isnan().any():
                raise RunError(f"{where}: {tensor_name} holds values that are no numbers (NaN)")
        return tensors

    def write_counters(self, dataset: Dataset, parts: Iterable[Counters]) -> str:
        """Write the learning-speed index, the counters of one drop after another, and return its digest."""
        total = hashlib.sha256()
        for drop, part in zip(dataset.drops, parts, strict=True):
            data = save(to_tensors(part))
            self.store.write(self.layout.learning_speed(self.run_id, drop.id), data)
            total.update(data)
        return total.hexdigest()

    def counters(self, dataset: Dataset, known: int) -> Counters:
        """Return the counters over a dataset whose first `known` drops this run was trained on; zeros for the others.

        Raises as `known_counters` does.
        """
        whole = Counters.zeros(dataset.samples, dtype=STORED_DTYPE)
        views = split(whole, [drop.samples for drop in dataset.drops])
        for part, view in zip(self.known_counters(dataset, known), views, strict=False):
            view.copy(part)
        return whole

    def known_counters(self, dataset: Dataset, known: int) -> Iterator[Counters]:
        """Yield the counters of the first `known` drops of a dataset, on which this run was trained in that order.

        A few are read ahead, so that they can be gone through in little memory. Drops that the run was trained on too
        and the dataset lacks are in quarantine. Raises `RunError`, at the last one, if they are not those that the
        result vouches for, or at once if they are of other drops.
        """
        if not known:
            return
        wanted, total = {drop.id for drop in dataset.drops[:known]}, hashlib.sha256()
        own = self.plan().dataset.drops
        for drop, data in zip(own, map_ahead(self._index, own, ahead=READ_AHEAD), strict=True):
            total.update(data)
            if drop.id in wanted:
                yield self._part(drop, data)
        result = self.result()
        if result is None or result.index_digest != total.hexdigest():
            raise RunError(f"{self.store.url}/{self._key('learning_speed/')} is not the index that the run ended with")

    def _index(self, drop: DropRef) -> bytes:
        return self.store.read(self.layout.learning_speed(self.run_id, drop.id))[0]

    def _part(self, drop: DropRef, data: bytes) -> Counters:
        where = f"{self.store.url}/{self.layout.learning_speed(self.run_id, drop.id)}"
        part = from_tensors(_loaded(data, where))
        if len(part.seen) != drop.samples:
            raise RunError(f"{self.run_id} counted {len(part.seen):,} samples in drop {drop.id}, not {drop.samples:,}")
        return part


def _loaded(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        return load(data)
    except SafetensorError as error:
        raise RunError(f"{where} holds no tensors: {error}") from error
