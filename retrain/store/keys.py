"""The keys of a task's objects: `<store>/<task>/...` ("What is in the store" in docs/architecture.md)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskKeys:
    """The keys of one task's objects."""

    task: str

    @property
    def drops(self) -> str:
        """Prefix of all drops."""
        return f"{self.task}/drops/"

    def shard(self, drop: str, name: str) -> str:
        """Return one file of a drop."""
        return f"{self.task}/drops/{drop}/{name}"

    def manifest(self, drop: str) -> str:
        """Return the manifest that makes a drop visible."""
        return self.shard(drop, "drop.json")

    def success(self, drop: str) -> str:
        """Return the empty object that ends a drop: a producer that writes no manifest uploads it last."""
        return self.shard(drop, "_SUCCESS")

    def quarantine(self, drop: str) -> str:
        """Return the report on a drop that cannot be used."""
        return self.shard(drop, "quarantine.json")

    def validations(self, drop: str) -> str:
        """Return the number of validations of a drop that started and never ended."""
        return f"{self.task}/validations/{drop}.json"

    def validating(self, drop: str) -> "TaskKeys":
        """Return one drop's validation, laid out as a task is: it has a lease of its own."""
        return TaskKeys(f"{self.task}/validations/under-way/{drop}")

    @property
    def intake(self) -> "TaskKeys":
        """Return the commits of drops and amendments, laid out as a task is: they have a lease of their own."""
        return TaskKeys(f"{self.task}/intake")

    @property
    def amendments(self) -> str:
        """Prefix of all amendments."""
        return f"{self.task}/amendments/"

    def amendment(self, sequence: int) -> str:
        """Return one amendment."""
        return f"{self.task}/amendments/{sequence:06d}.json"

    @property
    def erasures(self) -> str:
        """Prefix of all erasures."""
        return f"{self.task}/erasures/"

    def erasure(self, sequence: int) -> str:
        """Return one erasure."""
        return f"{self.task}/erasures/{sequence:06d}.json"

    @property
    def claims(self) -> str:
        """Prefix of all claims."""
        return f"{self.task}/claims/"

    def claim(self, drop: str) -> str:
        """Return the run that a drop was given to."""
        return f"{self.task}/claims/{drop}.json"

    @property
    def runs(self) -> str:
        """Prefix of all runs."""
        return f"{self.task}/runs/"

    def run(self, run_id: str, name: str) -> str:
        """Return one file of a run: plan.json, model.safetensors, curve.jsonl, result.json, evaluation.json, ..."""
        return f"{self.task}/runs/{run_id}/{name}"

    def learning_speed(self, run_id: str, drop: str) -> str:
        """Return a run's counters for one drop."""
        return self.run(run_id, f"learning_speed/{drop}.safetensors")

    def pretrained(self, sha256: str) -> str:
        """Weights that runs start from, by their digest."""
        return f"{self.task}/pretrained/{sha256}.safetensors"

    @property
    def ledger(self) -> str:
        """Prefix of all records of ended runs."""
        return f"{self.task}/ledger/"

    def record(self, run_id: str) -> str:
        """Return the record of one ended run."""
        return f"{self.task}/ledger/{run_id}.json"

    def notifications(self, endpoint: str) -> str:
        """Prefix of the events that an endpoint has confirmed."""
        return f"{self.task}/notifications/{endpoint}/"

    @property
    def approvals(self) -> str:
        """Prefix of all approvals."""
        return f"{self.task}/approvals/"

    def approval(self, run_id: str) -> str:
        """Return a candidate that passed the gate and waits for a person, and what that person said."""
        return f"{self.task}/approvals/{run_id}.json"

    def drifts(self, run_id: str) -> str:
        """Prefix of the drifts measured with the features of a run's model."""
        return f"{self.task}/drift/{run_id}/"

    def drift(self, run_id: str, drop: str) -> str:
        """Return how far a drop's images are from those that a run's model was tested on."""
        return f"{self.drifts(run_id)}{drop}.json"

    @property
    def champion(self) -> str:
        """Return the pointer to the promoted model."""
        return f"{self.task}/champion.json"

    @property
    def lease(self) -> str:
        """Return the lease of the process that works on the task."""
        return f"{self.task}/lease.json"

    def submission(self, submission_id: str) -> str:
        """Return the outcome of one submission of the pipeline."""
        return f"{self.task}/submissions/{submission_id}.json"
