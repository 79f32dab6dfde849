"""Tests of task files: search by name, overrides, messages about mistakes, templates, schema and schedules."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from retrain.config.cron import last_scheduled
from retrain.config.fields import ConfigModel
from retrain.config.loading import load_task, load_tasks, parse_task, task_argument
from retrain.config.optimizers import Adam, Sgd
from retrain.config.recipe import L2, AutoSchedule, L2Init, MultiStep
from retrain.config.task import Task
from retrain.config.template import short_template, task_schema, task_template
from retrain.config.validation import config_models, models_by_name
from retrain.errors import TaskError

SHIPPED = sorted((Path(__file__).parents[2] / "tasks").glob("*.yaml"))
TWO = datetime(2026, 11, 21, 2, tzinfo=UTC)


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    """Return the path of a task file with some settings that differ from the defaults."""
    path = tmp_path / "flowers.yaml"
    path.write_text(
        "name: flowers\n"
        "seed: 7\n"
        "training: {batch_size: 32, optimizer: {name: sgd, momentum: 0.8}}\n"
        "recipe: {objective: {name: l2_init, strength: 0.5, anchor: fresh}}\n"
    )
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    """Return the lines of the error of an invalid task, without the path of the test's folder."""
    with pytest.raises(TaskError) as caught:
        load_task(str(path), overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# Search by name ----------------------------------------------------------------------------------------------------


def test_two_tasks_of_one_name_are_refused(task_file: Path) -> None:
    other = task_file.with_name("other.yaml")
    other.write_text("name: roses\n")
    assert [task.name for task in load_tasks([str(task_file), str(other)])] == ["flowers", "roses"]
    other.write_text("name: flowers\n")
    for second in (task_file, other):
        with pytest.raises(TaskError, match=f"flowers.yaml and --task {second} have the same name, flowers: pass"):
            load_tasks([str(task_file), str(second)])


def test_missing_fields_of_a_task_file_have_their_defaults(task_file: Path) -> None:
    task = load_task(str(task_file))
    assert (task.name, task.seed, task.training.batch_size) == ("flowers", 7, 32)
    assert task.training.optimizer == Sgd(momentum=0.8)
    assert task.data == Task(name="flowers").data


def test_name_is_looked_up_in_the_local_tasks_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks").mkdir()
    written(tmp_path / "tasks/flowers.yaml", "name: flowers\nseed: 3\n")
    monkeypatch.delenv("RETRAIN_TASKS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert load_task("flowers").seed == 3


def test_folder_in_retrain_tasks_is_searched_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, seed in (("tasks", 3), ("elsewhere", 4)):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder / "flowers.yaml", f"name: flowers\nseed: {seed}\n")
    written(tmp_path / "tasks/birds.yaml", "name: birds\n")
    monkeypatch.setenv("RETRAIN_TASKS", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    assert load_task("flowers").seed == 4
    assert load_task("birds").name == "birds"


def test_unknown_task_lists_searched_and_similar_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks").mkdir()
    written(tmp_path / "tasks/flowers.yaml", "name: flowers\n")
    monkeypatch.setenv("RETRAIN_TASKS", "/nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError) as caught:
        load_task("flower")
    assert str(caught.value) == (
        "no task 'flower': there is no /nowhere/flower.yaml or tasks/flower.yaml; did you mean flowers?"
    )
    written(tmp_path / "tasks/birds.yaml", "name: birds\n")
    with pytest.raises(TaskError, match=r"tasks/cars\.yaml; known: birds, flowers$"):
        load_task("cars")


def test_error_without_any_task_suggests_task_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRAIN_TASKS", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match="`retrain task init NAME` writes one"):
        load_task("flower")


def test_error_explains_a_tab_in_a_task_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"line 2, column 1: .*: indent with spaces, not with tabs"):
        load_task(str(written(tmp_path / "pets.yaml", "data:\n\tflip: true\n")))


@pytest.mark.parametrize("task", SHIPPED, ids=lambda path: path.stem)
def test_repository_tasks_are_valid_and_named_as_their_files(task: Path) -> None:
    assert load_task(str(task)).name == task.stem


def test_task_argument_repeats_the_overrides(task_file: Path) -> None:
    task = load_task(str(task_file), ["store=../a copy", "seed=3"])
    assert shlex.split(task_argument(task.name)) == [str(task_file), "--set", "store=../a copy", "--set", "seed=3"]
    load_task(str(task_file))
    assert task_argument(task.name) == str(task_file)


# Overrides ---------------------------------------------------------------------------------------------------------


def test_override_sets_sections_absent_from_the_file(task_file: Path) -> None:
    task = load_task(str(task_file), ["recipe.schedule.scale=0.5", "training.batch_size=64", "gate.margin=0"])
    assert task.recipe.schedule == AutoSchedule(scale=0.5)
    assert task.training.batch_size == 64
    assert task.training.optimizer == Sgd(momentum=0.8)
    assert task.gate.margin == 0


@pytest.mark.parametrize(
    ("override", "options"),
    [
        ("model.options.width=16", {"width": 16}),
        ("model.options.dropout=1e-1", {"dropout": 0.1}),
        ("model.options={width: 8, bias: true}", {"width": 8, "bias": True}),
        ("model.options.kind=a=b", {"kind": "a=b"}),
    ],
)
def test_values_of_overrides_are_read_as_yaml(task_file: Path, override: str, options: dict[str, object]) -> None:
    assert load_task(str(task_file), [override]).model.options == options


def test_last_of_two_overrides_of_a_field_is_used(task_file: Path) -> None:
    assert load_task(str(task_file), ["seed=1", "seed=2"]).seed == 2


def test_changed_kind_keeps_only_shared_fields(task_file: Path) -> None:
    assert load_task(str(task_file), ["recipe.objective.name=l2"]).recipe.objective == L2(strength=0.5)
    assert load_task(str(task_file), ["training.optimizer.name=adam"]).training.optimizer == Adam()


@pytest.mark.parametrize("order", [1, -1])
def test_overrides_of_a_kind_and_its_field_work_in_any_order(task_file: Path, order: int) -> None:
    overrides = ["recipe.schedule.name=multistep", "recipe.schedule.factor=0.2"][::order]
    assert load_task(str(task_file), overrides).recipe.schedule == MultiStep(factor=0.2)


@pytest.mark.parametrize("order", [1, -1])
def test_overridden_field_of_another_kind_is_reported(task_file: Path, order: int) -> None:
    overrides = ["recipe.objective.name=l2", "recipe.objective.anchor=start"][::order]
    [problem] = problems(task_file, *overrides)
    assert problem == (
        "--set: recipe.objective.anchor: unknown field 'anchor'; allowed: name, strength; it is a field of l2_init only"
    )


def test_misspelt_field_is_reported_after_a_change_of_kind(task_file: Path) -> None:
    written(task_file, "name: flowers\nrecipe: {objective: {name: l2_init, ancor: fresh}}\n")
    [problem] = problems(task_file, "recipe.objective.name=l2")
    assert "unknown field 'ancor'" in problem


def test_recipe_section_without_kind_has_the_presets_kind(task_file: Path) -> None:
    written(task_file, "name: flowers\nrecipe: {preset: paper, objective: {strength: 0.5}}\n")
    assert load_task(str(task_file)).recipe.objective == L2Init(strength=0.5, anchor="origin")


def test_section_without_kind_has_the_default_kind(task_file: Path) -> None:
    written(task_file, "name: flowers\ntraining: {optimizer: {betas: [0.8, 0.99]}}\n")
    assert load_task(str(task_file)).training.optimizer == Adam(betas=(0.8, 0.99))


@pytest.mark.parametrize("override", ["seed", "=3", "training..epochs=3", "."])
def test_malformed_override_is_refused(task_file: Path, override: str) -> None:
    assert problems(task_file, override) == [
        f"--set {override}: must be FIELD=VALUE, such as recipe.schedule.scale=0.5",
    ]


# Messages about mistakes -------------------------------------------------------------------------------------------


def test_error_lines_give_file_field_allowed_and_given_values(task_file: Path) -> None:
    written(
        task_file,
        "name: Flowers\n"
        "target: {level: 0}\n"
        "data: {std: [1, 0, x], flip: 3.5}\n"
        "model: {stem: big}\n"
        "training: {batch_size: -3, optimizer: {name: adma}}\n"
        "recipe: {schedule: {name: cosine, scale: fast}, sampling: uniform}\n",
    )
    assert sorted(problems(task_file)) == [
        "flowers.yaml: data.flip: must be true or false (got 3.5)",
        "flowers.yaml: data.std.1: must be greater than 0 (got 0)",
        "flowers.yaml: data.std.2: must be a number (got 'x')",
        "flowers.yaml: model.stem: must be 'small' or 'standard' (got 'big')",
        "flowers.yaml: name: must be 1 to 63 lower-case letters, digits and hyphens, with a letter or a digit at both "
        "ends (got 'Flowers')",
        "flowers.yaml: recipe.sampling: must be a mapping of fields (got 'uniform')",
        "flowers.yaml: recipe.schedule.scale: must be 'auto' or a number (got 'fast')",
        "flowers.yaml: target.level: must be greater than 0 (got 0)",
        "flowers.yaml: training.batch_size: must be greater than 0 (got -3)",
        "flowers.yaml: training.optimizer.name: must be one of adam, adamw, sgd (got 'adma')",
    ]


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("data.image_size=28x28", "must be one side, or [height, width], of 4 to 1024 pixels (got '28x28')"),
        ("data.image_size=[28]", "must be one side, or [height, width], of 4 to 1024 pixels (got [28])"),
        ("data.image_size=2048", "must be one side, or [height, width], of 4 to 1024 pixels (got 2048)"),
        ("data.augmentation.resized_crop.scale=[1, 0.3]", "must be two values: the smallest, then the largest"),
        ("data.aliases=[a]", "must be a mapping (got ['a'])"),
        ("data.aliases={0: zero}", "must be a text (got 0; put a text in quotes)"),
        ("data.mean=0.5", "must be a list (got 0.5)"),
        ("trigger.quiet_period=1s", "must be a whole number above 0 with m, h, d or w (minutes, hours, days, weeks)"),
        ("trigger.max_wait=7 days", "must be a whole number above 0 with m, h, d or w (minutes, hours, days, weeks)"),
        ("model.pretrained_sha256=AB", "must be a SHA-256 digest: 64 digits of 0-9 and a-f (got 'AB')"),
        ("training.epochs=true", "must be a number (got True)"),
        ("training.warmup=false", "must be a number (got False)"),
        ("gate.approval_timeout=[7]", "is not valid: Time to wait for approval (30m, 6h, 7d, 2w)"),
    ],
)
def test_error_messages_use_the_terms_of_a_task_file(task_file: Path, setting: str, problem: str) -> None:
    (line,) = problems(written(task_file, "name: flowers\n"), setting)
    assert line.startswith(f"--set: {setting.partition('=')[0]}")
    assert problem in line


def test_webhook_without_a_scheme_is_refused_with_an_example(task_file: Path) -> None:
    (line,) = problems(written(task_file, "name: flowers\nwebhooks: [{url: hooks.example.com}]\n"))
    assert "webhooks.0.url: is not valid: Address of the receiver, such as https://hooks.example.com/retrain" in line


def test_field_paths_leave_out_the_kind(task_file: Path) -> None:
    assert problems(task_file, "recipe.objective.anchor=there", "training.optimizer.momentum=2") == [
        "--set: recipe.objective.anchor: must be 'origin', 'fresh' or 'start' (got 'there')",
        "--set: training.optimizer.momentum: must be at most 1 (got 2)",
    ]


@pytest.mark.parametrize(
    ("override", "where", "hint"),
    [
        ("training.batchsize=3", "training.batchsize", "; did you mean training.batch_size?"),
        ("batch_size=3", "batch_size", "; did you mean training.batch_size?"),
        ("recpe.schedule.scale=1", "recpe", "; did you mean recipe?"),
        ("recipe.scale=1", "recipe.scale", "; did you mean recipe.schedule.scale?"),
        ("recipe.schedule.factor=1", "recipe.schedule.factor", "; it is a field of multistep only"),
    ],
)
def test_unknown_field_lists_allowed_and_similar_fields(task_file: Path, override: str, where: str, hint: str) -> None:
    [problem] = problems(task_file, override)
    assert problem.startswith(f"--set: {where}: unknown field {where.rpartition('.')[2]!r}; allowed: ")
    assert problem.endswith(hint)


def test_endless_training_is_refused(task_file: Path) -> None:
    assert problems(task_file, "training.epochs=1e308") == [
        "--set: training.epochs: must be at most 1000000 (got 1e+308)"
    ]


def test_errors_tell_file_and_override_apart(task_file: Path) -> None:
    written(task_file, "name: flowers\nseed: -1\n")
    assert problems(task_file, "training.epochs=0") == [
        "flowers.yaml: seed: must be at least 0 (got -1)",
        "--set: training.epochs: must be greater than 0 (got 0)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: a\nseed: 1\nseed: 2\n", "line 3, column 1: duplicate key 'seed'"),
        (
            "name: a\nschedule: */5 * * * *\n",
            "line 2, column 12: expected alphabetic or numeric character, but found '/': put a text that begins with * "
            "or & in quotes",
        ),
        (
            "name: a\nresources: {memory: 16GB}\n",
            "resources.memory: is not valid: Main memory, including shared memory, such as 16Gi or 500M (got '16GB')",
        ),
        ("name: a\ntraining:\n  epochs: 1\n  epochs: 1\n", "line 4, column 3: duplicate key 'epochs'"),
        ("name: [a\n", "line 2, column 1: expected ',' or ']', but got '<stream end>'"),
        ("name: a\nresources: {memory: 500K}\n", "resources.memory: is not valid"),
        ("name: !!python/object/apply:os.getcwd []\n", "line 1, column 7: could not determine a constructor for"),
        ("name: 2026-02-31\n", "day is out of range for month"),
        ("", "must be a mapping of fields, such as 'name: flowers'"),
        ("- name\n", "must be a mapping of fields, such as 'name: flowers'"),
        ("training: 3\n", "name: is missing"),
        ("name: a\n1: 2\n", "1: unknown field '1'; allowed: name, schema_version, "),
        ("name: a\ntraining: {epochs: .inf}\n", "training.epochs: must be a finite number (got inf)"),
    ],
)
def test_invalid_task_file_is_refused_with_the_problem(task_file: Path, text: str, problem: str) -> None:
    first, *_ = problems(written(task_file, text))
    assert first.startswith(f"flowers.yaml: {problem}")


def test_unreadable_task_file_gives_its_path_and_the_reason(tmp_path: Path) -> None:
    assert problems(tmp_path / "absent.yaml") == ["absent.yaml: cannot be read: No such file or directory"]
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff")
    assert problems(tmp_path / "image.yaml") == ["image.yaml: cannot be read: not a text file in UTF-8"]


# Templates, schema and schedules -----------------------------------------------------------------------------------


def fields(model: type[ConfigModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field of every part by its path. Leave out `name` and `kind`, because they select a kind."""
    for name, field in model.model_fields.items():
        yield f"{model.__name__}.{name}", field
        for part in config_models(field):
            yield from (
                (path, inner)
                for path, inner in fields(part)
                if not (models_by_name(field) and path.endswith((".name", ".kind")))
            )


def test_full_template_loads_back_to_the_defaults(tmp_path: Path) -> None:
    path = written(tmp_path / "flowers.yaml", task_template("flowers"))
    assert load_task(str(path)) == Task(name="flowers")


def test_short_template_loads_back_to_the_defaults(tmp_path: Path) -> None:
    text = short_template("flowers")
    assert load_task(str(written(tmp_path / "flowers.yaml", text))) == Task(name="flowers")
    assert len(text.splitlines()) < 15, "a new user must be able to read all of it"


def test_full_template_shows_fields_below_their_descriptions() -> None:
    lines = [line.strip() for line in task_template("flowers").splitlines()]
    above = lines[lines.index("batch_size: 128") - 1]
    assert above == f"# {dict(fields(Task))['Training.batch_size'].description}"
    assert [line for line in lines if line.startswith("# multistep: ")]
    shown = {line.partition(":")[0] for line in lines if not line.startswith("#")}
    assert shown >= Task.model_fields.keys() | {"alpha", "head_rows", "warmup", "scale", "betas", "on_miss", "margin"}


def test_template_with_an_invalid_name_is_refused() -> None:
    with pytest.raises(
        TaskError, match=r"name: must be 1 to 63 lower-case letters, digits and hyphens, .* \(got 'Bad Name'\)"
    ):
        task_template("Bad Name")


def test_every_field_is_described() -> None:
    assert [path for path, field in fields(Task) if not field.description] == []


def test_task_schema_has_limits_and_refuses_unknown_fields() -> None:
    training = task_schema()["$defs"]["Training"]
    assert training["additionalProperties"] is False
    assert training["properties"]["batch_size"]["exclusiveMinimum"] == 0
    assert training["properties"]["batch_size"]["description"] == "Samples per iteration."


def test_newest_scheduled_time_may_be_now() -> None:
    assert last_scheduled("0 2 * * *", TWO) == TWO
    assert last_scheduled("0 2 * * *", TWO + timedelta(hours=5)) == TWO
    assert last_scheduled("0 2 * * *", TWO - timedelta(microseconds=1)) == TWO - timedelta(days=1)


def test_schedules_are_in_utc_in_every_time_zone() -> None:
    elsewhere = TWO.astimezone(timezone(timedelta(hours=-8)))
    assert last_scheduled("0 2 * * *", elsewhere) == TWO


def test_task_schedule_accepts_cron_fields() -> None:
    assert Task(name="pets", schedule="*/15 * * * 1-5").schedule == "*/15 * * * 1-5"


@pytest.mark.parametrize("cron", ["0 0 2 * * *", "0 2 * *", "60 2 * * *", "daily", ""])
def test_schedule_that_is_not_cron_is_refused_with_an_example(cron: str) -> None:
    with pytest.raises(TaskError, match=r"pets\.yaml: schedule: must be five cron fields such as '0 2 \* \* \*'"):
        parse_task(f"{{name: pets, schedule: '{cron}'}}", "pets.yaml")
