"""The command line: one file for each group of commands. A command parses its options, calls the library and prints the
result.

Import `app` and `main` from here. Heavy imports stay inside the commands to keep `--help` fast.
"""

import logging
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from retrain import __version__
from retrain.cli import champion, data, drop, history, pipeline, run, study, task
from retrain.cli.doctor import doctor
from retrain.cli.gc import gc
from retrain.cli.inference import export, predict, serve
from retrain.cli.monitoring import exporter, fleet, report
from retrain.cli.output import check_output, open_closed_streams
from retrain.cli.track import track
from retrain.cli.watch import notify, watch
from retrain.errors import UserError
from retrain.training.preemption import raise_preempted
from retrain.utils import logs
from retrain.utils.extras import EXTRA_OF, install_command


class _Commands(TyperGroup):
    """The group of all commands.

    Options of the program, such as `--quiet`, must be written before the command. If such an option is written after
    the command, the error message says so.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TyperException as raised:
            error: Any = raised  # `NoSuchOption`, a class that typer does not export
            name = getattr(error, "option_name", None)
            if any(name in option.opts for option in self.params):
                line = f"{ctx.command_path} {name} {ctx.invoked_subcommand} ..."
                error.message, error.possibilities = (
                    f"No such option: {name}. Write it before the command: {line}",
                    None,
                )
            raise


app = typer.Typer(
    cls=_Commands,
    help="Keep image classifiers up to date for a fraction of the compute.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(task.app, name="task", help="Write, check and describe task files.")
app.add_typer(drop.app, name="drop", help="Pack, list, amend and erase drops of labelled data.")
app.add_typer(data.app, name="data", help="Review the data of a task.")
app.add_typer(pipeline.app, name="pipeline", help="Run a task's stages as a Kubeflow pipeline.")
app.add_typer(study.app, name="study", help="Compare methods, and repeat the papers' experiments.")
run.register(app)
history.register(app)
champion.register(app)
app.command()(doctor)
app.command()(gc)
app.command()(predict)
app.command()(export)
app.command()(serve)
app.command()(exporter)
app.command()(report)
app.command()(fleet)
app.command()(notify)
app.command()(track)
app.command()(watch)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also log debug messages, and informational messages of libraries.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings and errors only.")] = False,
    log_format: Annotated[
        logs.LogFormat, typer.Option(envvar=logs.FORMAT_VARIABLE, help="Log as text, or as one JSON object per line.")
    ] = "text",
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    if verbose and quiet:
        raise UserError("--verbose and --quiet cannot be combined: pass one of them")
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logs.configure_logging(log_format, level)


def main() -> None:
    """Run the command line.

    After a `UserError`, print one message and exit with 2. After SIGTERM, exit with 75: the same command can be run
    again.
    """
    signal.signal(signal.SIGTERM, raise_preempted)
    open_closed_streams()
    check_output()
    try:
        try:
            app(prog_name="retrain")  # also for `python -m retrain`
        finally:
            sys.stdout.flush()
    except UserError as error:
        _print_error(error)
        sys.exit(2)
    except ModuleNotFoundError as missing:
        if (explained := _explain_missing(missing)) is None:
            raise
        _print_error(explained)
        sys.exit(2)


def _explain_missing(missing: ModuleNotFoundError) -> UserError | None:
    """Return the error that says how to install a missing package. None if the package is always installed."""
    package = (missing.name or "").partition(".")[0]
    if package in ("torch", "torchvision"):
        return UserError(
            f"this command needs {package}, but it is missing: use the container image whose tag has no -slim"
        )
    return UserError(f"this command needs {install_command(package)}") if package in EXTRA_OF else None


def _print_error(error: UserError) -> None:
    if logs.is_json():
        logs.LOGGER.error("%s", error)
    else:
        typer.echo(f"retrain: {error}", err=True)
