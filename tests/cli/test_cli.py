"""Tests of every command on one task: its tables, its JSON output, and its messages about wrong input."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
import torch
from PIL import Image
from support.faulty_s3 import faulty, refusal
from support.terminal import Ran, at_terminal, call, retrain, start
from support.trainings import pixels
from support.workspaces import make_task

from retrain.config.loading import load_task
from retrain.pipeline.status import Status
from retrain.records import Champion, Drop, Plan, RunRecord
from retrain.records.ledger import total_savings
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore

Command = Callable[..., Ran]
TASK = make_task().model_dump_json(exclude_defaults=True)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs a command in this process. Remove COLUMNS, because test runners may set it."""
    monkeypatch.delenv("COLUMNS", raising=False)
    return lambda *arguments: retrain(arguments, capfd)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a working directory with a task, images, and two drops. Each drop has a run, the second also a baseline."""
    home = tmp_path_factory.mktemp("home")
    labels = torch.arange(200) % 5
    for number, image in enumerate(pixels(labels, seed=5)):
        path = home / "images" / f"class-{labels[number]}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    (home / "tasks").mkdir()
    settings = make_task(store="store", gate={"margin": 1.0}).model_dump()
    (home / "tasks" / "pets.yaml").write_text(json.dumps(settings))
    with pytest.MonkeyPatch.context() as environment:
        environment.chdir(home)
        environment.setenv("RETRAIN_CACHE", str(home / "cache"))
        for arguments in SETUP_COMMANDS:
            assert call(arguments) == 0
        yield home


DOCS = Path(__file__).parents[2] / "docs"
RUN = "RUN"
T = ("-t", "pets")
PACK = ("drop", "pack", "images", *T, "--classes", "3+2")
SETUP_COMMANDS = ((*PACK, "--part", "1"), ("run", *T), (*PACK, "--part", "2"), ("baseline", *T), ("run", *T, "--json"))


def contents(home: Path) -> dict[str, bytes]:
    """Return all files of the folder except the cache and the leases."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and "cache" not in path.relative_to(home).parts and path.name != "lease.json"
    }


@pytest.fixture
def unchanged(home: Path) -> Iterator[None]:
    """Assert that the test writes no file."""
    before = contents(home)
    yield
    assert contents(home) == before


def records(home: Path) -> list[RunRecord]:
    return TaskStore(LocalStore(home / "store"), "pets").ledger.read()


def test_json_history_lists_the_ledgers_records(home: Path, command: Command, unchanged: None) -> None:
    ran = command("history", *T, "--json")
    assert [RunRecord.model_validate(record) for record in json.loads(ran.out)] == records(home)
    assert (ran.code, ran.err) == (0, "")


def test_status_shows_the_path_of_a_missing_store(home: Path, command: Command, unchanged: None) -> None:
    assert re.search(r"^store +store *$", command("status", *T).out, re.MULTILINE)
    ran = command("status", *T, "--set", "store=elsewhere")
    assert f"store{home / 'elsewhere'}(thisfolderdoesnotexistyet)championnoneyet" in "".join(ran.out.split())
    assert ran.code == 0


def test_history_table_has_one_row_per_run(home: Path, command: Command, unchanged: None) -> None:
    lines = command("history", *T).out.split("saved in total: ")[0].splitlines()
    assert [line.split()[0] for line in lines] == ["run", *(record.run_id for record in records(home))]
    assert " ".join(lines[0].split()) == "run ended (UTC) outcome val target test L_99 L_100 used saved"
    assert "calibrated" in lines[2]


def test_show_prints_the_runs_record(home: Path, command: Command, unchanged: None) -> None:
    for record in records(home):
        assert RunRecord.model_validate_json(command("show", record.run_id, *T, "--json").out) == record
        assert record.run_id in command("show", record.run_id, *T).out


def test_status_shows_champion_baseline_and_savings(home: Path, command: Command, unchanged: None) -> None:
    status = Status.model_validate_json(command("status", *T, "--json").out)
    first, calibration, *_, last = records(home)
    assert (status.champion, status.runs, status.waiting) == (last, len(records(home)), ())
    assert status.baseline == (calibration if last.method == "continuous" else last)
    assert status.savings == total_savings(records(home))
    said = command("status", *T).out
    assert f"champion  {last.run_id}" in said
    assert f"{status.savings.gross:+,} iterations gross, {status.savings.net:+,.0f} net" in said
    assert first.run_id not in said


def test_drop_list_and_drop_show_print_the_drops(home: Path, command: Command, unchanged: None) -> None:
    drops = [Drop.model_validate(drop) for drop in json.loads(command("drop", "list", *T, "--json").out)]
    assert [len(drop.classes) for drop in drops] == [3, 2]
    lines = command("drop", "list", *T).out.splitlines()
    assert [line.split()[0] for line in lines] == ["drop", *(drop.id for drop in drops)]
    assert Drop.model_validate_json(command("drop", "show", drops[1].id, *T, "--json").out) == drops[1]
    assert drops[1].digest in command("drop", "show", drops[1].id, *T).out


def test_metrics_command_prints_the_ledgers_totals(home: Path, command: Command, unchanged: None) -> None:
    said = command("metrics", *T).out
    used = sum(record.savings.used for record in records(home) if record.method == "scratch" and record.savings)
    assert f'retrain_used_iterations_total{{method="scratch",task="pets"}} {used:.1f}' in said


def test_run_without_new_drops_is_reported_and_exits_0(command: Command, home: Path, unchanged: None) -> None:
    ran = command("run", *T)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("nothing to do: no drop has landed since champion")
    assert command("run", *T, "--json").out == "null\n"


def test_dry_run_prints_the_plan_and_writes_nothing(home: Path, command: Command, unchanged: None) -> None:
    asked = ("run", *T, "--method", "naive", "--dry-run", "--until", "99", "--seed", "4", "--set", "training.epochs=3")
    plan = Plan.model_validate_json(command(*asked, "--json").out)
    assert (plan.method, plan.seed, plan.task.training.epochs) == ("scratch", 4, 3)
    assert "no scratch run with this network and these training settings" in plan.reason
    plan = Plan.model_validate_json(command(*asked[:-2], "--json").out)
    assert plan.target
    assert (plan.method, plan.target.level, plan.seed) == ("naive", 99, 4)
    said = command(*asked[:-2]).out
    assert f"plan of {plan.run_id}" in said
    assert "method naive was requested" in said
    assert f"99% of what {plan.target.baseline_run} reached" in said
    assert json.loads(command("run", *T, "--dry-run", "--json").out) is None


def test_task_commands_create_check_and_describe_a_task(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "birds.yaml"
    assert command("task", "init", "birds", "-o", str(path)).code == 0
    assert "birds is valid" in command("task", "check", str(path)).out
    assert json.loads((tmp_path / "task.schema.json").read_text()) == json.loads(command("task", "schema").out)
    full = tmp_path / "full.yaml"
    assert command("task", "init", "birds", "-o", str(full), "--full").code == 0
    assert load_task(str(full)) == load_task(str(path))
    assert "store" in json.loads(command("task", "schema").out)["properties"]
    [said] = re.findall("`retrain (.*)`", command("task", "init", "birds", "-o", "without-suffix").out)
    assert (
        command(*said.split()).out
        == "./without-suffix: task birds is valid; `retrain doctor` also tries its network and its store\n"
    )
    again = command("task", "init", "birds", "-o", str(path))
    assert (again.code, again.out) == (2, "")
    assert "already exists" in again.err
    path.write_text(path.read_text().replace("store: store", "store: ftp://host/birds"))
    assert "store: cannot open 'ftp://host/birds'" in command("task", "check", str(path)).err


def test_promote_and_rollback_change_the_champion(home: Path, command: Command) -> None:
    first, last = records(home)[0], records(home)[-1]
    champion = home / "store" / "pets" / "champion.json"
    assert command("rollback", *T).out == f"{first.run_id} is the champion of pets again\n"
    status = " ".join(command("status", *T).out.split())
    assert "was trained on these drops and promoted, and later replaced" in status.partition(" next run ")[2]
    assert "nothing to roll back to" in command("rollback", *T).err
    waiting = Status.model_validate_json(command("status", *T, "--json").out).waiting
    assert waiting == last.new_drops
    assert "promoted, and later replaced" in command("run", *T).out
    assert command("promote", last.run_id, *T).out == f"{last.run_id} is the champion of pets\n"
    history = Champion.model_validate_json(champion.read_bytes()).history
    assert [entry.why for entry in history] == ["promoted", "promoted", "rolled back", "promoted by hand"]
    assert "is already the champion: nothing to promote" in command("promote", last.run_id, *T).err


def test_trial_is_recorded_and_never_promoted(home: Path, command: Command) -> None:
    champion = (home / "store" / "pets" / "champion.json").read_bytes()
    ran = command("run", *T, "--trial", "--method", "naive", "--json", "--device", "cpu")
    record = RunRecord.model_validate_json(ran.out)
    assert (ran.code, record.purpose, record) == (0, "trial", records(home)[-1])
    assert (home / "store" / "pets" / "champion.json").read_bytes() == champion
    assert f"runs {len(records(home))}, including 1 trial" in " ".join(command("status", *T).out.split())
    assert "`retrain baseline --task pets` measures both." in command("run", *T, "--trial", "--method", "scratch").out


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("gate.min_accuracy=1", "below gate.min_accuracy"),
        ("training.optimizer={name: sgd, learning_rate: 1e38}", "diverged"),
    ],
)
def test_retraining_without_promotion_exits_with_1(home: Path, command: Command, setting: str, said: str) -> None:
    ran = command("run", *T, "--method", "scratch", "--seed", "9", "--set", setting)
    assert ran.code == 1
    assert said in ran.out


WRONG = [
    ("run -t pets --set training.epoch=3", "did you mean training.epochs?"),
    ("run -t pets --set training.epochs=many", "training.epochs"),
    ("run -t pets --method sgd", "'sgd' is not one of 'scratch', 'naive', 'continuous'"),
    ("run -t pets --until 98", "'98' is not one of '99', '100'"),
    ("run -t pets --method naive --device gpu", "retrain: --device gpu: must be auto, cpu, cuda or cuda:N"),
    ("run -t pets --method naive --device cuda:77", "--device cuda:77"),
    ("run -t pets --method naive --device cuda:77 --dry-run", "--device cuda:77"),
    ("run -t fish", "fish"),
    ("run", "Missing option '--task'"),
    ("run -t pets -q", "No such option: -q. Write it before the command: retrain -q run ..."),
    ("drop pack images -t pets --label-from json", "--label-from: data.label_from: is not valid"),
    ("run -t broken.yaml", "broken.yaml"),
    ("run -t pets --method naive --set model.name=no_such_net", "no_such_net"),
    ("run -t pets --method naive --set store=ftp://host/x", "allowed are s3://bucket/prefix, gs://bucket/prefix, "),
    ("drop pack images -t pets --set store=images/class-0/0.png/x", "images/class-0/0.png/x"),
    ("drop pack nowhere -t pets", "nowhere: no such file or folder"),
    ("drop pack undecodable -t pets", "undecodable: cat/13.png"),
    ("drop pack empty-class -t pets", "empty-class: dog: an empty folder: remove it, or put images into it"),
    ("drop pack twice -t pets", "duplicate key cat/0"),
    ("drop pack images -t pets --classes 9+9", "9+9 adds up to 18; it must add up to 5"),
    ("drop pack images -t pets --classes 3+2 --share 50+50", "--classes and --share cannot be combined"),
    ("drop pack images -t pets --classes three", "not a sum of positive whole numbers"),
    ("drop pack images -t pets --classes 3+2 --part 3", "part 3 does not exist: the source has 2 parts"),
    ("drop pack images -t pets --id Bad/Name", "drop id 'Bad/Name': allowed are"),
    ("drop show d-nothing -t pets", "pets has no drop d-nothing"),
    ("show scratch-nothing -t pets", "scratch-nothing is not in the ledger of task pets"),
    ("show ../../escape -t pets", "is not a key"),
    ("promote scratch-nothing -t pets", "there is no run scratch-nothing"),
    ("drop pack images -t pets --id=", "drop id '': allowed are"),
    ("drop pack images -t pets --classes=", "classes: '' is not a sum"),
    ("drop pack images -t pets --share=", "share: '' is not a sum"),
    ("task init Bad_Name", "lower-case letters, digits and hyphens"),
    ("task init birds -o tasks/pets.yaml/birds.yaml", "--output tasks/pets.yaml/birds.yaml: cannot be written: Not a"),
    ("task init birds -o /proc/birds.yaml", "--output /proc/birds.yaml: cannot be written: No such file"),
    ("report -t pets -o nowhere/page.html", "--output nowhere/page.html: cannot be written: No such file"),
    ("pipeline compile -t pets -o p.json", "--output p.json: must end in .yaml"),
    ("pipeline compile -t pets -o nowhere/p.yaml", "--output nowhere/p.yaml: cannot be written: No such file"),
    ("pipeline register -t pets", "no address of Kubeflow Pipelines: pass --host"),
    ("run -t pets --method naive --on kubeflow", "no address of Kubeflow Pipelines: pass --host"),
    ("watch -t pets --on kubeflow", "no address of Kubeflow Pipelines: pass --host"),
    ("watch -t pets --queue-url nonsense", "--queue-url nonsense: must look like https://sqs."),
    ("study report --check --out nowhere", "no folder in nowhere has a runs.jsonl"),
    ("task check nowhere.yaml", "nowhere.yaml"),
    ("task check unknown-field.yaml", "unknown-field.yaml"),
    ("rollback -t newborn.yaml", "task newborn has no champion yet"),
    ("status -t pets --set store=damaged", "damaged/pets/champion.json was not written by this version of retrain"),
    ("run -t pets --set store=damaged", "damaged/pets/lease.json was not written by this version of retrain"),
    ("nonsense", "No such command 'nonsense'"),
]


@pytest.fixture(scope="module")
def mistakes(home: Path) -> None:
    """Write sources of drops and task files that have errors."""
    image = (home / "images" / "class-0" / "0.png").read_bytes()
    files = {
        **{f"undecodable/cat/{number}.png": image for number in range(20)},
        "undecodable/cat/13.png": image[:100],
        "twice/cat/0.png": image,
        "twice/cat/0.PNG": image,
        "empty-class/cat/0.png": image,
        "broken.yaml": b"name: [",
        "unknown-field.yaml": b"name: pets\ncolour: red\n",
        "newborn.yaml": b"name: newborn\nstore: store\n",
        "damaged/pets/champion.json": b"{",
        "damaged/pets/lease.json": b"{",
    }
    for name, data in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (home / "empty-class" / "dog").mkdir()


@pytest.mark.parametrize(("line", "said"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_input_gives_one_message_and_changes_nothing(
    home: Path, mistakes: None, unchanged: None, command: Command, line: str, said: str
) -> None:
    ran = command(*line.split())
    assert (ran.code, ran.out) == (2, "")
    message = " ".join(ran.err.replace("│", " ").split())
    assert said in message
    assert "Traceback" not in ran.err
    warned = ("warning: ",) if line.startswith("pipeline compile") else ()  # the store is a local folder
    assert message.startswith(("retrain: ", "Usage: ", *warned))
    assert ran.err.count("retrain: ") <= 1


def test_unreachable_store_is_reported_with_address(home: Path, unchanged: None, s3: str, command: Command) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    ran = command("run", *T, "--set", "store=s3://bucket/prefix", "--set", f"endpoint_url={address}")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("retrain: s3://bucket/prefix")
    assert address in ran.err
    assert len(ran.err.splitlines()) == 1


def test_refused_credentials_are_reported(home: Path, unchanged: None, s3: str, command: Command) -> None:
    with faulty(s3, lambda request, forward: refusal(403, "InvalidAccessKeyId")) as address:
        ran = command("status", *T, "--set", "store=s3://bucket/prefix", "--set", f"endpoint_url={address}")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("retrain: s3://bucket/prefix")
    assert "credentials" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_subprocess_exits_2_without_traceback_on_user_error(home: Path, unchanged: None) -> None:
    ran = start("run", *T, "--set", "training.epoch=3")
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1


def test_training_without_terminal_logs_its_start_and_end(home: Path) -> None:
    ran = start("run", *T, "--trial", "--method", "naive", "--seed", "2", "--json")
    record = RunRecord.model_validate_json(ran.out)
    began, *_, ended = ran.err.splitlines()
    assert f"{record.run_id}: method naive was requested; at most" in began
    assert record.result
    assert f"{record.run_id}: {record.outcome} after {record.result.iterations} iterations" in ended


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal_with_one_line_per_run(
    home: Path, command: Command, unchanged: None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = command("history", *T).out.split("saved in total: ")[0].splitlines()
    assert [line.split()[0] for line in lines] == ["run", *(record.run_id for record in records(home))]
    assert ("ended" in lines[0].split()) == (width == 120)
    plan = ("run", *T, "--method", "naive", "--dry-run")
    for arguments in (
        ("history", *T),
        ("show", records(home)[-1].run_id, *T),
        ("status", *T),
        ("drop", "list", *T),
        plan,
    ):
        assert max(map(len, command(*arguments).out.splitlines())) <= width


def test_narrow_terminal_cuts_no_number(home: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Print a table that is wider than the terminal. Lines may wrap, but no number is cut."""
    monkeypatch.setenv("COLUMNS", "40")
    newest = records(home)[-1]
    assert newest.result
    [line] = [line for line in command("history", *T).out.splitlines() if line.startswith(newest.run_id)]
    assert {newest.ending, f"{newest.result.final_score:.2%}", f"{newest.result.iterations:,}"} <= set(line.split())
    [drop, *_] = command("drop", "list", *T).out.splitlines()[1:]
    monkeypatch.setenv("COLUMNS", "120")
    assert drop.split() == command("drop", "list", *T).out.splitlines()[1].split()


def test_terminal_bar_shows_iterations_accuracy_and_time_left(home: Path) -> None:
    lines = at_terminal(80, "run", *T, "--trial", "--method", "naive", "--seed", "3")
    record = records(home)[-1]
    assert record.result
    assert record.target
    assert lines[0].startswith(f"{record.run_id}: method naive was requested")
    [bar] = {line for line in lines if f" {record.result.iterations}/" in line}
    accuracies = f"{record.result.final_accuracy:.2%} on val (target {record.target.accuracy:.2%})"
    assert re.fullmatch(rf"[━╸╺ ]+ \d+/\d+ {re.escape(accuracies)} [\d,]+ images/s \d:\d\d:\d\d", bar)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "asked",
    [("run", "--dry-run"), ("status",), ("history",), ("show", RUN), ("doctor",), ("drop", "list")],
    ids=" ".join,
)
def test_json_output_is_valid_under_its_schema(home: Path, command: Command, asked: tuple[str, ...]) -> None:
    words = [records(home)[0].run_id if word == RUN else word for word in asked]
    schema = DOCS / "schemas" / f"{'-'.join(word for word in asked if word != RUN and word[0] != '-')}.json"
    printed = json.loads(command(*words, *T, "--json").out)
    jsonschema.validate(printed, json.loads(schema.read_text()), format_checker=jsonschema.FormatChecker())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"unknown": printed}, json.loads(schema.read_text()))
