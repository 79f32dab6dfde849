"""Export a task's ledger and champions to an MLflow server.

Every run of the ledger becomes an MLflow run of the experiment that is named after the task. Every promoted model
becomes a version of the registered model that is named after the task. The alias `champion` names the champion's
version. Existing entries in MLflow are not changed. The next export completes an interrupted one.
"""

import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from retrain.errors import RunError, UserError
from retrain.export.folder import export_model
from retrain.inference.loading import Source
from retrain.records import Promotion, RunRecord
from retrain.tracking.figures import figures_of, settings_of, summary_of
from retrain.tracking.mlflow_connection import connect
from retrain.utils.logs import LOGGER
from retrain.utils.parallel import in_chunks

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_ID, EXPORTED = "retrain.run_id", "retrain.exported"
"""Tags of an MLflow run: its id in the ledger, and `true` if its export is complete. The second is written last."""
ALIAS, FOLDER = "champion", "model"
METRICS, SETTINGS = 1000, 100
"""Largest numbers of metrics and of settings in one request to MLflow."""


class Exported(NamedTuple):
    """Result of an export: the numbers of added runs and versions, and the champion."""

    runs: int
    versions: int
    champion: str | None
    """Version that now has the alias `champion`. None if there is no champion."""


def export_to_mlflow(source: Source, uri: str | None = None) -> Exported:
    """Update an MLflow server with a task's store. The default is the server at $MLFLOW_TRACKING_URI.

    Raises `UserError` if MLflow's client is not installed, there is no address, or the server is unreachable or
    refuses a request.
    """
    with connect(uri) as client:
        return _Export(client, source).export()


class _Export:
    """One export of one task."""

    def __init__(self, client: "MlflowClient", source: Source) -> None:
        self._client, self._source = client, source
        self._store, self._name = source.store, source.store.task

    def export(self) -> Exported:
        experiment = self._experiment()
        runs = self._exported_runs(experiment)
        new = [record for record in self._store.ledger.read() if record.run_id not in runs]
        for record in new:
            runs[record.run_id] = self._export_run(experiment, record)
        return self._export_champions(runs)._replace(runs=len(new))

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._name)
        if found is None:
            return str(self._client.create_experiment(self._name))
        if found.lifecycle_stage == "deleted":
            raise UserError(f"the experiment {self._name} is deleted in MLflow: restore it, or remove it permanently")
        return str(found.experiment_id)

    def _exported_runs(self, experiment: str) -> dict[str, "Run"]:
        """Return the completely exported runs, by their ids in the ledger. Delete the runs of interrupted exports."""
        runs = {}
        for run in self._search(experiment):
            if EXPORTED in run.data.tags:
                runs[run.data.tags[RUN_ID]] = run
            else:
                self._client.delete_run(run.info.run_id)
        return runs

    def _search(self, experiment: str) -> Iterator["Run"]:
        token = None
        while True:
            page = self._client.search_runs([experiment], f"tags.`{RUN_ID}` != ''", page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _export_run(self, experiment: str, record: RunRecord) -> "Run":
        from mlflow.entities import Metric, Param, RunTag

        files = self._store.run(record.run_id)
        run = self._client.create_run(
            experiment, _milliseconds(record.started_at), {RUN_ID: record.run_id}, run_name=record.run_id
        )
        run_id, ended = run.info.run_id, _milliseconds(record.ended_at)
        settings = [Param(name, value) for name, value in settings_of(files.plan()).items()]
        for params in in_chunks(settings, SETTINGS):
            self._client.log_batch(run_id, params=params)
        metrics = [Metric(name, value, ended, 0) for name, value in summary_of(record).items()]
        metrics += [Metric(figure.name, figure.value, ended, figure.iteration) for figure in figures_of(files)]
        for part in in_chunks(metrics, METRICS):
            self._client.log_batch(run_id, part)
        self._client.set_terminated(run_id, "FINISHED" if record.error is None else "FAILED", ended)
        tags = {"retrain.outcome": record.outcome, "retrain.ending": record.ending, EXPORTED: "true"}
        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        return run

    def _export_champions(self, runs: dict[str, "Run"]) -> Exported:
        champion = self._store.champion.read().champion
        if champion is None:
            return Exported(0, 0, None)
        versions = self._versions()
        known = len(versions)
        for entry in {entry.run_id: entry for entry in champion.history}.values():
            if entry.run_id not in versions and entry.run_id in runs:
                versions |= self._export_version(entry, runs[entry.run_id])
        version = versions.get(champion.run_id)
        if version:
            self._client.set_registered_model_alias(self._name, ALIAS, version)
        return Exported(0, len(versions) - known, version)

    def _versions(self) -> dict[str, str]:
        """Return the versions of the registered model by their runs' ids. Register the model if it is absent."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self._name, description="Champions of retrain.")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = self._client.search_model_versions(f"name = '{self._name}'")
        return {one.tags[RUN_ID]: str(one.version) for one in found if RUN_ID in one.tags}

    def _export_version(self, entry: Promotion, run: "Run") -> dict[str, str]:
        """Upload and register a promoted model. Return its version by run id, or {} if `retrain gc` removed it."""
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder) / FOLDER
            try:
                export_model(self._source, entry.run_id, exported)
            except RunError as error:
                LOGGER.warning("%s is not registered in MLflow: %s", entry.run_id, error)
                return {}
            self._client.log_artifacts(run.info.run_id, str(exported), FOLDER)
        tags = {RUN_ID: entry.run_id, "retrain.why": entry.why}
        made = self._client.create_model_version(
            self._name, f"{run.info.artifact_uri}/{FOLDER}", run.info.run_id, tags=tags, await_creation_for=0
        )
        return {entry.run_id: str(made.version)}


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
