"""Write docs/cli.md from the command line itself, and docs/metrics.md from the list of metric names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from schemas import PRINTED, file_of

from retrain.cli import app
from retrain.monitoring.names import GROUPS, Name

DOCS = Path(__file__).parent
CLI_HEADER = """# The command line

This page is for people who look up a command, an option or an exit code. `make docs` generates it from `retrain/cli/`.
`--task` takes a task's file or its name. A name is looked up in `$RETRAIN_TASKS` and then in `tasks/`. Without
`--task`, every command except `gc` uses `RETRAIN_TASK`. A value of `--set` is YAML, such as
`--set 'model.options={width: 16}'`. Log lines go to standard error. `retrain --install-completion` adds completion of
commands, options and task names to the shell.

| exit code | meaning |
| --- | --- |
| 0 | done, or nothing to do |
| 1 | `run`, `approve`: the model was not promoted, and the record says why; \
`doctor`: a check failed; `watch --once`: a task could not be checked; \
`predict`: an image could not be read; `drop erase`: an object could not be searched; \
`notify`: a webhook did not confirm an event |
| 2 | the input is wrong, or the store cannot be used: one message says what to correct. \
A run that had begun keeps its plan and checkpoints, and the same command resumes it |
| 3 | `run`: a candidate passed the gate and awaits `retrain approve` (`gate.approval: manual`). \
`run` exits with 3 again until the verdict or the next drop |
| 75 | stopped by SIGTERM, or by Ctrl-C in training, after a checkpoint was saved: the same command resumes the run. \
`watch`, `exporter` and `serve` exit with 0 instead |
| 130 | stopped by Ctrl-C outside of training, or by a second Ctrl-C in training, without saving a checkpoint. \
No object is incomplete, and the same command can be run again |
"""
METRICS_HEADER = """# Metrics

This page is for people who query metrics or write alerts. `make docs` generates it from `retrain/monitoring/names.py`.
The exporter (`retrain exporter`) serves the groups from *Every process* to *The exporter*. The watcher, `retrain serve`
and a training (with `--metrics-port` or `RETRAIN_METRICS_PORT`) serve *Every process* and the group named after them.
All of them also serve `process_*`, the standard metrics of Prometheus' Python client: memory, processor time, open
files, start time. `{currency}` stands for the code of `costs.currency` in lower case, as in `retrain_cost_eur_total`.
"""


def cli_page() -> str:
    """Return the page: a section for each command."""
    root: Any = typer.main.get_command(app)
    common = "\n".join(_options(root, typer.Context(root, info_name="retrain")))
    sections = "\n".join(line for command in _commands(root, "retrain") for line in command)
    return f"{CLI_HEADER}\n**Options before the command:** `retrain [OPTIONS] COMMAND`\n{common}\n{sections}\n"


def _commands(command: Any, name: str) -> Iterator[Iterator[str]]:
    """Yield every command below this one, without groups."""
    children = getattr(command, "commands", None)
    if children is None:
        yield _section(command, name)
    else:
        for child in children.values():
            yield from _commands(child, f"{name} {child.name}")


def _section(command: Any, name: str) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    pieces = command.collect_usage_pieces(context)
    yield from (f"\n## {name}\n", f"{command.help}\n", "```", f"{name} {' '.join(pieces)}", "```")
    yield from _options(command, context)
    if name in PRINTED:
        yield f"\nSchema of the JSON output: [{file_of(name)}]({file_of(name)})."


def _options(command: Any, context: typer.Context) -> Iterator[str]:
    records = [parameter.get_help_record(context) for parameter in command.params]
    if records:
        yield from ("\n| | |", "| --- | --- |")
    for names, text in filter(None, records):
        yield f"| `{_cell(names)}` | {_cell(text)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def metrics_page() -> str:
    """Return the page: a table for each group."""
    lines = "\n".join(line for title, names in GROUPS.items() for line in _metrics_table(title, names))
    return f"{METRICS_HEADER}{lines}\n"


def _metrics_table(title: str, names: tuple[Name, ...]) -> Iterator[str]:
    yield from (f"\n## {title}\n", "| metric | type | labels | meaning |", "| --- | --- | --- | --- |")
    for name in names:
        labels = ", ".join(f"`{label}`" for label in name.labels)
        yield f"| `{name.name}` | {name.kind} | {labels} | {name.help} |"


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(cli_page())
    (DOCS / "metrics.md").write_text(metrics_page())
