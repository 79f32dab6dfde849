"""The page of all messages. `make docs` reads them from the source code."""

import runpy
from pathlib import Path

import pytest
from support.rendered import ROOT

DOCS = ROOT / "docs"


def test_page_of_messages_is_up_to_date() -> None:
    module = runpy.run_path(str(DOCS / "messages.py"))
    assert (DOCS / "messages.md").read_text() == module["page"](), "run `make docs`"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('raise TaskError(f"no task {self.name!r}: " "create one")', "- error: `no task {name}: create one`"),
        ('raise UserError("pass --all") from None', "- error: `pass --all`"),
        ('LOGGER.warning("%s: waits for %s", 1, 2)', "- log: `%s: waits for %s`"),
        (
            'typer.echo(f"wrote {len(paths)} files" if paths else "nothing to do")',
            "- result: `wrote {number of paths} files",
        ),
        ('typer.echo("`retrain run` starts")', "- result: `` `retrain run` starts``"),
        (
            "yield f\"{pluralize(3, 'class')} have too few images\"",
            "- result: `{number of classes} have too few images`",
        ),
        ('raise KeyError("not for people")', None),
        ('return "key of a record"', None),
    ],
)
def test_messages_are_read_from_calls_and_sentences(tmp_path: Path, line: str, message: str | None) -> None:
    module = runpy.run_path(str(DOCS / "messages.py"))
    folder = tmp_path / "retrain" / "pipeline"
    folder.mkdir(parents=True)
    (folder / "errors.py").write_text("class UserError(Exception): ...\nclass TaskError(UserError): ...\n")
    (folder / "code.py").write_text(f"def run(self, paths):\n    {line}\n")
    page = module["page"](tmp_path)
    assert message in page if message else "- " not in page.partition("## ")[2]
