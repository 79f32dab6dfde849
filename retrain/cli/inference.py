"""Use models: `retrain predict`, `retrain export` and `retrain serve`."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retrain.cli.options import NONE, Device, Overrides, TaskName, open_task, output_errors
from retrain.cli.output import write_utf8
from retrain.utils.text import join_names

if TYPE_CHECKING:
    from retrain.inference.batch import Answer
    from retrain.inference.model import Model
    from retrain.records import ErrorAnalysis


CHAMPION = "champion"
UNREADABLE = 1
"""Exit code if some images could not be read. The other images were predicted."""


def predict(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Folders, image files, tables of paths (.csv, .jsonl, .parquet), or - for paths on standard input."
        ),
    ],
    task: TaskName,
    run: Annotated[str | None, typer.Option(help="A run's id (default: the champion).")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write: .csv, .jsonl or .parquet (default: standard output)."),
    ] = None,
    form: Annotated[
        Literal["csv", "jsonl"] | None, typer.Option("--format", help="Format of standard output (default: csv).")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of most likely classes to write for each image.")] = 1,
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate",
            help="Show the errors. The true class is the name of the image's folder, or --label-column of a table.",
        ),
    ] = False,
    image_column: Annotated[str, typer.Option(help="Column of a table with the paths.")] = "image",
    label_column: Annotated[str, typer.Option(help="Column of a table with the true classes.")] = "label",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 128,
    device: Device = "auto",
    overrides: Overrides = NONE,
) -> None:
    """Predict the classes of images, with their probabilities."""
    from retrain.errors import UserError
    from retrain.inference import loading, tables, writing
    from retrain.inference.batch import LabelledPredictions, predict_rows

    if output and form not in (None, writing.format_of(output)):
        raise UserError(f"--format {form}: --output {output} names another format: leave out --format")
    if evaluate and form:
        raise UserError(
            "--format does not apply to the tables that --evaluate prints: to also write the predictions, pass "
            f"--output FILE.{form}"
        )
    opened, _ = open_task(task, overrides)
    source = loading.find_source(opened)
    model = loading.load_model(source, run, device)
    top = min(top, len(model.classes))
    rows = tables.read_rows(sources, tables.Columns(image_column, label_column), labelled=evaluate)
    unreadable, evaluation = Unreadable(), LabelledPredictions(opened.data.aliases)
    answers = unreadable.watch(_with_progress(predict_rows(model, rows, top, batch_size), model))
    if evaluate:
        answers = evaluation.watch(answers)
    with output_errors(output or Path("-")):
        if output:
            writing.write_file(answers, output, top)
        elif evaluate:
            deque(answers, maxlen=0)
        else:
            write_utf8()
            writing.write_stream(answers, sys.stdout, form or "csv", top)
    if evaluate and unreadable.errors < unreadable.images:
        _print_errors(evaluation.analyze(model.classes, loading.new_classes(source.store, model.run_id)), model)
    unreadable.report(has_column=output is not None or not evaluate)


def _print_errors(errors: "ErrorAnalysis", model: "Model") -> None:
    from retrain.cli.error_tables import error_tables
    from retrain.cli.formatting import print_tables

    print_tables(*error_tables(errors))
    if unknown := [one.name for one in errors.classes if one.name not in model.classes]:
        typer.echo(f"classes that the model does not have (all their images count as wrong): {join_names(unknown)}")


class Unreadable:
    """Counts the images in a stream of answers, and the images that could not be read."""

    def __init__(self) -> None:
        self.images, self.errors = 0, 0
        self._first = ""

    def watch(self, answers: "Iterable[Answer]") -> "Iterator[Answer]":
        """Yield the answers unchanged, and count them."""
        for answer in answers:
            self.images += 1
            self.errors += answer.error is not None
            self._first = self._first or (f"{answer.row.image}: {answer.error}" if answer.error else "")
            yield answer

    def report(self, has_column: bool) -> None:
        """Print how many images could not be read and exit with `UNREADABLE`, if there are any.

        `has_column` says whether the predictions, with their column `error`, have been written.
        """
        if self.errors:
            others = (
                "The column `error` has the cause for each of them"
                if has_column
                else "Pass --output FILE to list all of them"
            )
            typer.echo(
                f"{self.errors:,} of {self.images:,} images could not be read. {others}. The first is {self._first}",
                err=True,
            )
            raise typer.Exit(UNREADABLE)


def _with_progress(answers: "Iterable[Answer]", model: "Model") -> "Iterator[Answer]":
    """Yield the answers unchanged, and show their number on a terminal."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn(f"{model.run_id}:"), MofNCompleteColumn(), TextColumn("images"))
    console = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        line = bar.add_task("", total=None)
        for answer in answers:
            bar.advance(line)
            yield answer


def export(
    task: TaskName,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write. It must not exist yet.")],
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or champion.")] = CHAMPION,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write model.onnx (needs the extra onnx).")] = False,
    torch_export: Annotated[
        bool, typer.Option("--torch-export", help="Also write model.pt2, by torch.export.")
    ] = False,
    overrides: Overrides = NONE,
) -> None:
    """Write a model to a folder: weights, classes, preprocessing and model card, and optionally exported programs."""
    from retrain.export.folder import export_model
    from retrain.export.programs import FILES, Format
    from retrain.inference.loading import find_source

    opened, _ = open_task(task, overrides)
    chosen: dict[Format, bool] = {"onnx": onnx, "torch": torch_export}
    formats = tuple(kind for kind, wanted in chosen.items() if wanted)
    with output_errors(output):
        parities = export_model(find_source(opened), None if run_id == CHAMPION else run_id, output, formats)
    typer.echo(f"wrote {output}: model.safetensors, config.json, README.md")
    for parity in parities:
        typer.echo(
            f"wrote {output / FILES[parity.format]}: it gives the same label as the network for all {parity.images:,} "
            f"test images; logits differ by at most {parity.largest_difference:.2g}"
        )


def serve(
    task: TaskName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free port.")] = 8080,
    listen: Annotated[str, typer.Option(help="Address to listen on. 0.0.0.0 allows other machines.")] = "127.0.0.1",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between checks for a new champion.")] = 30,
    device: Device = "auto",
    overrides: Overrides = NONE,
) -> None:
    """Serve the champion over HTTP. After a promotion or rollback, serve the new champion without failed requests."""
    from retrain.inference.loading import find_source
    from retrain.utils.extras import require_extra

    for package in ("starlette", "uvicorn"):
        require_extra(package, "`retrain serve`")
    from retrain.serving import server

    opened, _ = open_task(task, overrides)
    server.serve(find_source(opened), listen, port, every, device)
