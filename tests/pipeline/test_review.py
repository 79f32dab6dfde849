"""A review finds flipped labels, and `drop amend` reads its output."""

import csv
from pathlib import Path

import pytest
from support.terminal import retrain
from support.workspaces import Workspace, make_task

from retrain.data.amending import amend_drops, read_corrections
from retrain.data.table_making import read_or_make_table
from retrain.errors import RunError
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.pipeline.review import review_data, write_corrections
from retrain.records import Change, RunRecord
from retrain.store import LocalStore

TASK = make_task()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a task with a champion trained on three classes.

    Four training images and two test images have a wrong label.
    """
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1, 2)
    [drop] = workspace.store.drops.all()
    table = read_or_make_table(drop, workspace.store)
    flipped = [row for use, count in ((0, 4), (2, 2)) for row in (table.use == use).nonzero()[0].tolist()[:count]]
    workspace.store.drops.amendments.append(
        [
            Change(
                drop=drop.id,
                row=row,
                key=table.keys[row],
                content=table.digest_of(row),
                split="train" if table.use[row] == 0 else "test",
                before=table.class_of(row),
                after=f"class-{(int(table.class_of(row)[-1]) + 1) % 3}",
                reason="flipped",
                author="tests",
            )
            for row in flipped
        ]
    )
    assert isinstance(stages.run_task(workspace.context, TASK, Request()), RunRecord)
    return workspace


def true_classes(workspace: Workspace) -> dict[str, str]:
    """Return the true class of every flipped image."""
    [drop] = workspace.store.drops.all()
    return {change.content: change.before for change in drop.changes}


def test_review_lists_flipped_labels_first(workspace: Workspace) -> None:
    flipped, found = true_classes(workspace), review_data(workspace.context, TASK, 4)
    assert {one.content for one in found.trained} <= flipped.keys()
    assert {one.content for one in found.held_out[:2]} <= flipped.keys()
    suspects = [*found.trained, *found.held_out[:2]]
    assert sum(one.proposed == flipped[one.content] for one in suspects) > len(suspects) / 2
    assert found.trained[0].why.startswith("in training, classified as the labelled class ")


def test_review_leaves_out_held_out_labels_that_agree(workspace: Workspace) -> None:
    found = review_data(workspace.context, TASK, 1000)
    assert found.held_out
    assert all(one.probability > one.own_probability for one in found.held_out)


def test_corrections_are_read_by_amend(workspace: Workspace, tmp_path: Path) -> None:
    found = review_data(workspace.context, TASK, 4)
    write_corrections(found.trained, tmp_path / "fix.csv")
    amendment = amend_drops(read_corrections(tmp_path / "fix.csv"), TASK, workspace.store)
    assert amendment
    assert len(amendment.changes) == 4
    assert len(true_classes(workspace)) == 2
    again = review_data(workspace.context, TASK, 4)
    assert {one.content for one in again.trained}.isdisjoint(one.content for one in found.trained)


def test_review_without_a_champion_is_reported(tmp_path: Path) -> None:
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1)
    with pytest.raises(RunError, match="has no champion yet: train one"):
        review_data(workspace.context, TASK, 4)


def test_review_command_writes_page_and_table(
    workspace: Workspace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pets.yaml").write_text(f"name: pets\nstore: {workspace.store.url}\nmodel: {{name: logistic}}\n")
    page, table = tmp_path / "review.html", tmp_path / "fix.csv"
    arguments = ["data", "review", "--task", str(tmp_path / "pets.yaml"), "-o", str(page), "--csv", str(table)]
    told = retrain([*arguments, "--limit", "3", "--device", "cpu"], capfd).out
    assert "3 training samples and 3 held-out samples to review" in told
    text = page.read_text()
    assert "<script" not in text
    assert text.count("data:image/png;base64,") == 6
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 6
    assert {row["class"] for row in rows} <= {"class-0", "class-1", "class-2"}


def test_review_of_a_single_class_proposes_no_label(tmp_path: Path) -> None:
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0)
    assert isinstance(stages.run_task(workspace.context, TASK, Request()), RunRecord)
    found = review_data(workspace.context, TASK, 4)
    assert (found.trained, found.held_out) == ([], [])
