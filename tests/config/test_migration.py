"""Task files of an earlier schema version are rewritten without a change of meaning."""

from pathlib import Path

import pytest
import yaml
from support.terminal import retrain

from retrain.config.fields import identity
from retrain.config.loading import parse_task
from retrain.config.migration import FORMER_DEFAULTS, migrate_task
from retrain.config.recipe import L2Init
from retrain.config.task import SCHEMA_VERSION
from retrain.config.template import short_template
from retrain.errors import TaskError

EARLIER = """\
# Flowers of the shop
name: flowers   # as in the catalogue
training:
  batch_size: 32  # fits the small GPU

store: 's3://shop/models'
"""


def test_earlier_file_keeps_its_meaning_and_comments() -> None:
    migrated = migrate_task(EARLIER, "flowers.yaml", 0)
    assert migrated.settings == FORMER_DEFAULTS[1]
    task = parse_task(migrated.text, "flowers.yaml")
    assert (task.recipe.preset, task.training.evaluate_every, task.baseline.refresh.on_miss) == ("paper", 1, True)
    assert isinstance(task.recipe.objective, L2Init)
    assert task.recipe.objective.anchor == "start"
    assert (task.store, task.training.batch_size, task.schema_version) == ("s3://shop/models", 32, SCHEMA_VERSION)
    lines = migrated.text.splitlines()
    assert lines[0] == "# Flowers of the shop"
    assert set(EARLIER.splitlines()) <= set(lines)


def test_migration_keeps_settings_of_the_file() -> None:
    text = "name: flowers\nrecipe: {preset: naive, objective: {name: none}}\nbaseline: {refresh: {on_miss: false}}\n"
    migrated = migrate_task(text, "flowers.yaml", 0)
    assert migrated.settings.keys() == {"recipe.schedule.final_rate", "training.evaluate_every"}
    recipe = yaml.safe_load(migrated.text)["recipe"]
    assert recipe == {"preset": "naive", "objective": {"name": "none"}, "schedule": {"final_rate": 0}}


@pytest.mark.parametrize("text", [migrate_task(EARLIER, "", 0).text, short_template("flowers")])
def test_file_of_this_version_is_not_changed(text: str) -> None:
    assert migrate_task(text, "flowers.yaml") == (text, {})
    assert migrate_task(text, "flowers.yaml", 0) == (text, {}), "the version in the file counts, not the argument"
    quoted = text.replace("schema_version: 1", "schema_version: '1'")
    assert migrate_task(quoted, "flowers.yaml") == (quoted, {})


def test_later_file_without_version_gets_only_the_version() -> None:
    migrated = migrate_task(EARLIER, "flowers.yaml", SCHEMA_VERSION)
    assert migrated.settings == {}
    assert [line for line in migrated.text.splitlines() if line not in EARLIER] == ["schema_version: 1"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "name: flowers\nstores: x\n",
            "flowers.yaml: stores: unknown field 'stores'; allowed: name, .*did you mean store",
        ),
        ("name: flowers\nschema_version: 9\n", "schema_version: 9 is from a later version of retrain; .* up to 1"),
        ("name: flowers\nnew: 3\nschema_version: '9'\n", "schema_version: 9 is from a later version of retrain"),
        (
            "name: flowers\n",
            "no schema_version, .* --from 0 if it was written for retrain 0.1, or --from 1 if for a later",
        ),
        ("name: flowers\nschema_version: 0\n", r"schema_version: must be greater than 0 \(got 0\)"),
        ("- flowers\n", "must be a mapping of fields"),
    ],
)
def test_migration_refuses_an_invalid_file(text: str, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        migrate_task(text, "flowers.yaml")


def test_migration_from_an_unknown_version_is_refused() -> None:
    with pytest.raises(TaskError, match="--from 2: the newest schema version is 1"):
        migrate_task(EARLIER, "flowers.yaml", 2)


def test_schema_version_does_not_change_plan_ids() -> None:
    task = parse_task("name: flowers\n", "")
    assert identity(task) == identity(task.model_copy(update={"schema_version": 2}))


def test_migrate_rewrites_the_file_without_dry_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "flowers.yaml"
    file.write_text(EARLIER)
    file.chmod(0o640)
    assert retrain(["task", "migrate", str(file)], capfd).code == 2
    shown = retrain(["task", "migrate", str(file), "--from", "0", "--dry-run"], capfd)
    assert "+schema_version: 1" in shown.out
    assert file.read_text() == EARLIER
    done = retrain(["task", "migrate", str(file), "--from", "0"], capfd)
    assert 'recipe.preset: "paper" is now in the file, because its default has changed' in done.out
    assert file.read_text() == migrate_task(EARLIER, "", 0).text
    assert (file.stat().st_mode & 0o777, list(tmp_path.iterdir())) == (0o640, [file])
    assert "already has the current version" in retrain(["task", "migrate", str(file)], capfd).out
    missing = retrain(["task", "migrate", str(tmp_path / "none.yaml")], capfd)
    assert (missing.code, "cannot be read: No such file or directory" in missing.err) == (2, True)
