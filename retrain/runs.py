"""One run's files in the store, `runs/<run-id>/`: each is written once, and `result.json` after what it vouches for."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from retrain.errors import RunError
from retrain.recipe.learning_speed import STORED, Counters, from_tensors, split, to_tensors
from retrain.records import Dataset, DropRef
from retrain.run_records import RunRecords
from retrain.store.base import Missing
from retrain.store.parallel import ask_all

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
        whole = Counters.zeros(dataset.samples, dtype=STORED)
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
        for drop, data in zip(own, ask_all(self._index, own, ahead=READ_AHEAD), strict=True):
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
