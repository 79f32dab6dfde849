"""The files of one run, `runs/<run-id>/`. Training writes `result.json` last, with the digests of its other files."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from retrain.errors import RunError
from retrain.records import (
    Curve,
    Decision,
    DropRef,
    ErrorAnalysis,
    Evaluation,
    Plan,
    Point,
    Record,
    Removed,
    Result,
    parse_record,
)
from retrain.store.base import Missing, ObjectStore, R, read_record
from retrain.store.checkpoints import Checkpoints
from retrain.store.keys import TaskKeys
from retrain.utils.clock import format_moment
from retrain.utils.parallel import map_ahead

if TYPE_CHECKING:  # the watcher and the metrics exporter read only records, without torch
    from torch import Tensor

DAMAGED = RunError
"""Class of the error for a damaged record of a run. It ends the run. A `StoreError` would cause a retry."""


READ_AHEAD = 4
"""Largest number of files of the learning-speed index in memory. The files of large drops are large."""


@dataclass(frozen=True)
class RunFiles:
    """The files of one run under `runs/<run-id>/`: its records, model, learning-speed index and checkpoints."""

    objects: ObjectStore
    keys: TaskKeys
    run_id: str

    def write_plan(self, plan: Plan) -> None:
        """Write the plan, unless it is already there. The same run id means the same plan."""
        if self._find("plan.json", Plan) is None:
            self._write("plan.json", plan)

    def has_plan(self) -> bool:
        """Return whether the run was ever started."""
        return self._find("plan.json", Plan) is not None

    def plan(self) -> Plan:
        """Return the plan. Raises `RunError` if there is no such run."""
        plan = self._find("plan.json", Plan)
        if plan is None:
            raise RunError(
                f"there is no run {self.run_id} in {self.objects.url}/{self.keys.task}/runs: `retrain history` "
                "lists the runs that have ended"
            )
        return plan

    def write_curve(self, points: Sequence[Point]) -> None:
        """Write the curve, one JSON object in each line."""
        lines = b"".join(point.model_dump_json().encode() + b"\n" for point in points)
        self.objects.write(self._key("curve.jsonl"), lines)

    def curve(self) -> Curve:
        """Return the curve. Raises `Missing` if the run has not ended, or failed before the end of its training."""
        key = self._key("curve.jsonl")
        data, _ = self.objects.read(key)
        where = f"{self.objects.url}/{key}"
        return Curve(points=tuple(parse_record(Point, line, where, DAMAGED) for line in data.splitlines()))

    def write_result(self, result: Result) -> None:
        """Write the result. It states that the training has ended and the other files are complete."""
        self._write("result.json", result)

    def result(self) -> Result | None:
        """Return the result, or None while the run has not ended."""
        return self._find("result.json", Result)

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Write the evaluation. A later evaluation compares with a newer champion, and replaces it."""
        self._write("evaluation.json", evaluation)

    def evaluation(self) -> Evaluation | None:
        """Return the evaluation, or None if there is none."""
        return self._find("evaluation.json", Evaluation)

    def write_errors(self, errors: ErrorAnalysis) -> None:
        """Write the model's errors on the test split."""
        self._write("errors.json", errors)

    def errors(self) -> ErrorAnalysis | None:
        """Return the model's errors on the test split. Return None for runs of early versions, or without a model."""
        return self._find("errors.json", ErrorAnalysis)

    def write_decision(self, decision: Decision) -> None:
        """Write the gate's decision."""
        self._write("decision.json", decision)

    def decision(self) -> Decision | None:
        """Return the gate's decision, or None if there is none."""
        return self._find("decision.json", Decision)

    def write_removed(self, removed: Removed) -> None:
        """Record that the run's large files are about to be removed."""
        self._write("removed.json", removed)

    def removed(self) -> Removed | None:
        """Return the record of the removal of the run's large files, or None if they were not removed."""
        return self._find("removed.json", Removed)

    def forget_removed(self) -> None:
        """Delete the record that `write_removed` wrote. The run's files were not removed."""
        self.objects.delete(self._key("removed.json"))

    def write_model(self, weights: "Mapping[str, Tensor]") -> str:
        """Write the weights as safetensors and return their digest."""
        return self._write_tensors("model.safetensors", weights)

    def weights(self) -> "dict[str, Tensor]":
        """Return the weights. Raises `RunError` if they do not match the result's digest, or contain NaN."""
        result = self.result()
        return self._read_tensors("model.safetensors", result.model_digest if result else None, "model")

    def write_moments(self, moments: "Mapping[str, Tensor]") -> str:
        """Write the optimizer's moments, for runs that continue from them, and return their digest."""
        return self._write_tensors("moments.safetensors", moments)

    def moments(self) -> "dict[str, Tensor]":
        """Return the optimizer's moments.

        Raises `RunError` if the run did not store them, and the errors of `weights`.
        """
        result = self.result()
        if result is None or result.moments_digest is None:
            raise RunError(
                f"{self.run_id} has no optimizer state to continue from: train it with training.optimizer_state: kept"
            )
        return self._read_tensors("moments.safetensors", result.moments_digest, "optimizer state")

    def _write_tensors(self, name: str, tensors: "Mapping[str, Tensor]") -> str:
        from safetensors.torch import save

        data = save(prepare_tensors(tensors.items()))
        self.objects.write(self._key(name), data)
        return hashlib.sha256(data).hexdigest()

    def _read_tensors(self, name: str, sha256: str | None, what: str) -> "dict[str, Tensor]":
        where = f"{self.objects.url}/{self._key(name)}"
        try:
            data, _ = self.objects.read(self._key(name))
        except Missing as missing:
            gone = self.removed()
            why = f"was removed by `retrain gc` on {format_moment(gone.at)}" if gone else "is missing"
            raise RunError(f"{where} {why}: restore it from a copy of the store") from missing
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RunError(f"{where} is not the {what} that the run ended with: restore it from a copy of the store")
        tensors = _load_tensors(data, where)
        for tensor_name, tensor in tensors.items():
            if tensor.isnan().any():
                raise RunError(f"{where}: {tensor_name} contains NaN: restore the file from a copy of the store")
        return tensors

    def write_index(self, parts: "Iterable[tuple[str, Mapping[str, Tensor]]]") -> str:
        """Write the learning-speed index, the tensors of one drop after another, and return its digest."""
        from safetensors.torch import save

        total = hashlib.sha256()
        for drop, tensors in parts:
            data = save(dict(tensors))
            self.objects.write(self.keys.learning_speed(self.run_id, drop), data)
            total.update(data)
        return total.hexdigest()

    def index(self, drops: Collection[str]) -> "Iterator[tuple[DropRef, dict[str, Tensor]]]":
        """Yield the learning-speed index of these drops, in the order in which this run was trained on them.

        Only a few files are prefetched, so a large learning-speed index takes little memory. The files of other drops
        are read only for the digest. Raises `RunError` after the last file if the files do not match the result's
        digest.
        """
        total, own = hashlib.sha256(), self.plan().dataset.drops
        for drop, data in zip(own, map_ahead(self._read_index_file, own, ahead=READ_AHEAD), strict=True):
            total.update(data)
            if drop.id in drops:
                where = f"{self.objects.url}/{self.keys.learning_speed(self.run_id, drop.id)}"
                yield drop, _load_tensors(data, where)
        result = self.result()
        if result is None or result.index_digest != total.hexdigest():
            where = f"{self.objects.url}/{self._key('learning_speed/')}"
            raise RunError(
                f"{where} is not the learning-speed index that the run ended with: restore it from a copy of the store"
            )

    def _read_index_file(self, drop: DropRef) -> bytes:
        return self.objects.read(self.keys.learning_speed(self.run_id, drop.id))[0]

    def checkpoints(self) -> Checkpoints:
        """Return the run's checkpoints, a context manager."""
        return Checkpoints(self.objects, self.keys, self.run_id)

    def _key(self, name: str) -> str:
        return self.keys.run(self.run_id, name)

    def _write(self, name: str, record: Record) -> None:
        self.objects.write(self._key(name), record.to_bytes())

    def _find(self, name: str, kind: type[R]) -> R | None:
        try:
            return read_record(self.objects, self._key(name), kind, DAMAGED)[0]
        except Missing:
            return None


class EndedRunFiles(RunFiles):
    """The files of a run that has ended. They no longer change, so plan, result and weights are read once."""

    def plan(self) -> Plan:
        """Return the plan. Raises the errors of `RunFiles.plan`."""
        return self._plan

    def result(self) -> Result | None:
        """Return the result."""
        return self._result

    def weights(self) -> "dict[str, Tensor]":
        """Return the weights. The caller must not change them. Raises the errors of `RunFiles.weights`."""
        return self._weights

    @cached_property
    def _plan(self) -> Plan:
        return super().plan()

    @cached_property
    def _result(self) -> Result | None:
        return super().result()

    @cached_property
    def _weights(self) -> "dict[str, Tensor]":
        return super().weights()


def prepare_tensors(named: "Iterable[tuple[str, Tensor]]") -> "dict[str, Tensor]":
    """Return tensors in the form that safetensors can save: on the CPU, contiguous, and without shared memory.

    A network with tied weights has several names for the same memory. Such tensors are copied.
    """
    prepared: dict[str, Tensor] = {}
    addresses = set[int]()
    for name, tensor in named:
        own = tensor.detach().cpu().contiguous()
        prepared[name] = own.clone() if own.data_ptr() in addresses else own
        addresses.add(own.data_ptr())
    return prepared


def _load_tensors(data: bytes, where: str) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise RunError(
            f"{where} is not a valid safetensors file: {error}. Restore it from a copy of the store"
        ) from error
