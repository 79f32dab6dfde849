"""`retrain doctor`."""

from typing import TYPE_CHECKING

import typer

from retrain.cli.options import NONE, AsJson, KubeflowHost, Overrides, TaskName, as_overrides, open_task

if TYPE_CHECKING:
    from rich.table import Table

    from retrain.config.resources import Kubeflow
    from retrain.doctor import Finding


UNREACHED = "Check kubeflow.host, the network, and $RETRAIN_KUBEFLOW_TOKEN if the server requires authentication."
COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def doctor(task: TaskName, host: KubeflowHost = None, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """Check whether a task can run here: store, clock, drops, disk, device, model, champion,
    trackers, Kubeflow."""
    from retrain.cli.formatting import print_record
    from retrain.doctor.examination import examine
    from retrain.doctor.trackers import check_trackers

    opened, store = open_task(task, [*overrides, *as_overrides({"--host": ("kubeflow.host", host)})])
    findings = [*examine(opened, store), *check_trackers(opened), _check_kubeflow(opened.kubeflow)]
    print_record(findings, _table, as_json)
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


def _check_kubeflow(settings: "Kubeflow") -> "Finding":
    from retrain.doctor import Check, Finding

    if settings.host is None:
        mend = "Only needed for --on kubeflow: set kubeflow.host in the task, or pass --host."
        return Finding(check="kubeflow", state="warning", found="no address of Kubeflow Pipelines", mend=mend)
    finding = Check("kubeflow", lambda: _describe_server(settings)).run()
    return finding if finding.state == "ok" else finding.model_copy(update={"mend": UNREACHED})


def _describe_server(settings: "Kubeflow") -> str:
    from retrain.kubeflow.client import reach

    return f"{settings.host} answers; {reach(settings)} experiments"


def _table(findings: "list[Finding]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        state = Text(finding.state, style=COLOURS[finding.state])
        table.add_row(finding.check, state, "\n".join(part for part in (finding.found, finding.mend) if part))
    return table
