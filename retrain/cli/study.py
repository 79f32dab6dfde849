"""`retrain study`."""

from itertools import groupby
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retrain.cli.options import NONE, Device, KubeflowHost, Overrides, TaskName, as_overrides, output_errors
from retrain.utils.logs import LOGGER
from retrain.utils.text import pluralize

if TYPE_CHECKING:
    from retrain.experiments import drops
    from retrain.experiments.runs import Runs


app = typer.Typer(no_args_is_help=True)

StudyName = Annotated[
    str,
    typer.Argument(
        help="A study's name (looked up in $RETRAIN_STUDIES, else in studies/, else in the package) or its file."
    ),
]
Root = Annotated[Path, typer.Option(help="Folder of the data sets.", envvar="RETRAIN_DATA")]
StudyStore = Annotated[str, typer.Option(help="Store of the study's runs: s3://, gs://, az://, or a folder.")]
Evidence = Annotated[Path, typer.Option(help="Folder of the studies' pages.")]
Jobs = Annotated[int, typer.Option(min=1, help="Number of training processes.")]
ROOT, STORE, EVIDENCE = Path("data"), "study-store", Path("docs/evidence")


@app.command()
def run(
    study: StudyName,
    root: Root = ROOT,
    store: StudyStore = STORE,
    download: Annotated[
        bool, typer.Option("--download", help="Download the data sets that torchvision can download.")
    ] = False,
    jobs: Jobs = 1,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Use only this many of the study's seeds (default: all).")
    ] = None,
    device: Device = "auto",
    on: Annotated[Literal["here", "kubeflow"], typer.Option(help="Where the runs train.")] = "here",
    host: KubeflowHost = None,
) -> None:
    """Run a study's missing runs. The command can be stopped at any time, and resumed by running it again."""
    from retrain.experiments.files import load_study

    loaded = load_study(study)  # before the import of torch, because this import takes seconds

    from retrain.experiments import drops, runner
    from retrain.experiments.runs import Runs
    from retrain.experiments.workers import Workers
    from retrain.training.preemption import Preempted

    runs = Runs(loaded.model_copy(update={"seeds": loaded.seeds[:seeds]}), store)
    if on == "kubeflow":
        _submit(runs, drops.DataRoot(root, download), host)
        return
    try:
        done = runner.run(runs, drops.DataRoot(root, download), Workers(jobs, device))
    except (Preempted, KeyboardInterrupt):
        LOGGER.info("%s: stopped; run the command again to resume it", runs.study.name)
        raise Preempted from None
    command = f"retrain study report {quote(study)} --store {quote(store)}"
    blocked = len(runs.blocked())
    left = f"{blocked} cannot start, because an earlier run diverged or failed" if blocked else "none left"
    typer.echo(f"{runs.study.name}: {pluralize(done, 'run')} done, {left}; `{command}` shows the results")


def _submit(runs: "Runs", root: "drops.DataRoot", host: str | None) -> None:
    from retrain.config.loading import load_task
    from retrain.experiments.runner import plan_ahead
    from retrain.pipelines.study import submit_study

    levels = plan_ahead(runs, root)
    if not levels:
        typer.echo(f"{runs.study.name}: all runs are done")
        return
    task = load_task(runs.study.task, as_overrides({"--host": ("kubeflow.host", host)}))
    submitted = submit_study(runs.study.name, task, levels)
    how = "submitted" if submitted.new else "already submitted"
    typer.echo(f"{runs.study.name}: {pluralize(sum(map(len, levels)), 'run')} {how} as Kubeflow run {submitted.id}")


@app.command()
def report(
    study: Annotated[str | None, typer.Argument(help="A study's name or file; omit it with --check.")] = None,
    store: StudyStore = STORE,
    out: Evidence = EVIDENCE,
    kept: Annotated[
        bool,
        typer.Option("--kept", help="Use the runs in runs.jsonl next to the page instead of the runs in the store."),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check every study's page against the runs in runs.jsonl next to it.")
    ] = False,
) -> None:
    """Write a study's page with tables and pictures, or check all pages against the runs next to them."""
    from retrain.errors import StudyError
    from retrain.experiments.files import load_study
    from retrain.experiments.report import check as check_pages
    from retrain.experiments.report import rewrite_report, write_report
    from retrain.experiments.runs import Runs

    if check:
        names = check_pages(out)
        checked = f"checked {len(names)} {'study' if len(names) == 1 else 'studies'}"
        typer.echo(f"{checked}: the pages match their runs.jsonl")
        return
    if study is None:
        raise StudyError("no study: pass its name, or --check")
    loaded = load_study(study)
    ran = None if kept else Runs(loaded, store).ended_runs()
    with output_errors(out, "--out"):
        written = rewrite_report(loaded, out) if ran is None else write_report(loaded, ran, out, store)
    typer.echo(written)


@app.command("list")
def list_(root: Root = ROOT, out: Evidence = EVIDENCE) -> None:
    """List every table and figure of the papers, and your own questions, with their studies and their status."""
    from retrain.experiments.catalogue import entries, list_missing
    from retrain.experiments.files import valid_studies

    studies = valid_studies()
    for (item, about), found in groupby(entries(studies, root, out), key=lambda entry: (entry.item, entry.about)):
        typer.echo(f"{item}: {about}")
        for entry in found:
            typer.echo(f"    {entry.study:<48} {entry.status}" if entry.study else f"    {entry.status}")
    for line in list_missing(studies, root):
        typer.echo(f"data set {line}")


@app.command()
def recommend(
    task: TaskName,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1, help="Iterations of all trial runs together (default: a quarter of one training from scratch)."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Number of seeds.")] = 1,
    jobs: Jobs = 1,
    device: Device = "auto",
    overrides: Overrides = NONE,
) -> None:
    """Compare the presets default, naive and paper in short trial runs on a task's drops, and recommend one."""
    from retrain.experiments.recommend import recommendation
    from retrain.experiments.workers import Workers

    typer.echo(recommendation(task, budget, seeds, Workers(jobs, device), overrides))
