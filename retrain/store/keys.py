"""The keys of a task's objects: `<store>/<task>/...` (docs/store.md)."""

from dataclasses import dataclass

OWN_SHARD = r"(train|val|test)-\d{6}-[0-9a-f]{8}\.tar"
"""Regular expression of the names that `name_shard` returns."""


def name_shard(split: str, number: int, sha256: str) -> str:
    """Return the name of a shard that `retrain` writes. Two writers of different shards use different names."""
    return f"{split}-{number:06d}-{sha256[:8]}.tar"


@dataclass(frozen=True)
class TaskKeys:
    """The keys of one task's objects."""

    task: str

    @property
    def drops(self) -> str:
        """Return the prefix of all drops."""
        return f"{self.task}/drops/"

    def drop_file(self, drop: str, name: str) -> str:
        """Return the key of a file of a drop. With an empty name, return the prefix of all its files."""
        return f"{self.task}/drops/{drop}/{name}"

    def manifest(self, drop: str) -> str:
        """Return the key of the manifest that makes a drop visible."""
        return self.drop_file(drop, "drop.json")

    def success(self, drop: str) -> str:
        """Return the key of the empty object that a producer without a manifest uploads last."""
        return self.drop_file(drop, "_SUCCESS")

    def quarantine(self, drop: str) -> str:
        """Return the key of the report on a drop that cannot be used."""
        return self.drop_file(drop, "quarantine.json")

    def validations(self, drop: str) -> str:
        """Return the key of the record that counts a drop's validations that started and did not end."""
        return f"{self.task}/validations/{drop}.json"

    def validating(self, drop: str) -> "TaskKeys":
        """Return the keys of one drop's validation, with a separate lease."""
        return TaskKeys(f"{self.task}/validations/under-way/{drop}")

    def training(self, run_id: str) -> "TaskKeys":
        """Return the keys of one run of a study, with a separate lease."""
        return TaskKeys(f"{self.task}/runs/{run_id}")

    @property
    def commits(self) -> "TaskKeys":
        """Return keys with a separate lease, for the process that commits drops and amendments."""
        return TaskKeys(f"{self.task}/intake")

    @property
    def amendments(self) -> str:
        """Return the prefix of all amendments."""
        return f"{self.task}/amendments/"

    def amendment(self, sequence: int) -> str:
        """Return the key of an amendment."""
        return f"{self.task}/amendments/{sequence:06d}.json"

    @property
    def erasures(self) -> str:
        """Return the prefix of all erasures."""
        return f"{self.task}/erasures/"

    def erasure(self, sequence: int) -> str:
        """Return the key of an erasure."""
        return f"{self.task}/erasures/{sequence:06d}.json"

    @property
    def claims(self) -> str:
        """Return the prefix of all claims."""
        return f"{self.task}/claims/"

    def claim(self, drop: str) -> str:
        """Return the key of the claim on a drop. The claim names the run that has the drop."""
        return f"{self.task}/claims/{drop}.json"

    @property
    def runs(self) -> str:
        """Return the prefix of all runs."""
        return f"{self.task}/runs/"

    def run(self, run_id: str, name: str) -> str:
        """Return the key of a file of a run: plan.json, model.safetensors, curve.jsonl, result.json, ..."""
        return f"{self.task}/runs/{run_id}/{name}"

    def learning_speed(self, run_id: str, drop: str) -> str:
        """Return the key of a run's learning-speed counters for one drop."""
        return self.run(run_id, f"learning_speed/{drop}.safetensors")

    def pretrained(self, sha256: str) -> str:
        """Return the key of the pretrained weights with this digest."""
        return f"{self.task}/pretrained/{sha256}.safetensors"

    @property
    def ledger(self) -> str:
        """Return the prefix of all records of ended runs."""
        return f"{self.task}/ledger/"

    def record(self, run_id: str) -> str:
        """Return the key of the record of an ended run."""
        return f"{self.task}/ledger/{run_id}.json"

    def notifications(self, endpoint: str) -> str:
        """Return the prefix of the events that an endpoint has confirmed."""
        return f"{self.task}/notifications/{endpoint}/"

    @property
    def approvals(self) -> str:
        """Return the prefix of all approvals."""
        return f"{self.task}/approvals/"

    def approval(self, run_id: str) -> str:
        """Return the key of the approval of a candidate that passed the gate: request and verdict."""
        return f"{self.task}/approvals/{run_id}.json"

    def drifts(self, run_id: str) -> str:
        """Return the prefix of the drifts measured with the features of a run's model."""
        return f"{self.task}/drift/{run_id}/"

    def drift(self, run_id: str, drop: str) -> str:
        """Return the key of a drop's drift, measured with the features of a run's model."""
        return f"{self.drifts(run_id)}{drop}.json"

    @property
    def champion(self) -> str:
        """Return the key of the pointer to the promoted model."""
        return f"{self.task}/champion.json"

    @property
    def lease(self) -> str:
        """Return the key of the lease of the process that works on the task."""
        return f"{self.task}/lease.json"

    def submission(self, submission_id: str) -> str:
        """Return the key of the result of planning (the first stage) for a pipeline that was submitted to Kubeflow."""
        return f"{self.task}/submissions/{submission_id}.json"
