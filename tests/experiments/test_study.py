"""Tests of studies that train a small perceptron on scanned digits, of their reports, and of the catalogue."""

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.leases import count_reads
from support.studying import CPU, TWO_SEEDS, small_study, workplace
from torchvision.datasets import FakeData

from retrain.errors import StudyError
from retrain.experiments import report
from retrain.experiments.catalogue import ASH, BEGIN, END, PAPERS, VERWIMP, entries, list_missing
from retrain.experiments.component import component_scores
from retrain.experiments.datasets import find_data_set, how_to_get, write_image_folder
from retrain.experiments.drops import DataRoot, commit_drops
from retrain.experiments.files import all_studies, load_study
from retrain.experiments.grid import FIRST, Cell, cells, task_of
from retrain.experiments.runner import run
from retrain.experiments.runs import Runs
from retrain.experiments.workers import Workers
from retrain.pipeline.context import make_context
from retrain.pipeline.train import prepare
from retrain.training.setup import Run as Start


@pytest.fixture(autouse=True, scope="module")
def study_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with a task, digits and a cache for the tests of this module."""
    with workplace(tmp_path_factory.mktemp("study")) as root:
        yield root


def digests(runs: Runs) -> dict[Cell, str | None]:
    """Return the digest of each cell's model."""
    return {one.cell: one.record.result.model_digest for one in runs.ended_runs() if one.record.result}


def test_study_cells_are_trials_that_ran_their_schedule(
    study_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = Runs(small_study(), str(tmp_path))
    with caplog.at_level("INFO", "retrain"):
        assert run(runs, DataRoot(study_root), CPU) == 4
    assert [message for message in caplog.messages if "missing" in message] == [
        "study small, drop 1 of 2: 1 of 1 runs are missing",
        "study small, drop 2 of 2: 3 of 3 runs are missing",
    ]
    store = runs.store(runs.task(next(cells(runs.study, 1))).name)
    records = store.ledger.read()
    assert [record.method for record in records] == ["scratch", "scratch", "naive", "continuous"]
    assert {record.purpose for record in records} == {"trial"}
    assert {record.outcome for record in records} == {"completed"}
    assert [record.parent for record in records] == [None, None, records[0].run_id, records[0].run_id]
    initialized = store.run(records[3].run_id).plan().recipe
    assert initialized.model_dump(include={"initialization", "objective", "sampling"}) == {
        "initialization": {
            "name": "shrink_perturb",
            "alpha": 0.4,
            "beta": 0.001,
            "buffers": "fresh",
            "rate": 1.0,
            "least_norm": 0.0,
            "new_rows": "fresh",
        },
        "objective": {"name": "none"},
        "sampling": {"name": "uniform"},
    }
    assert store.champion.read().champion is None


def test_stopped_or_extended_study_runs_only_missing_cells(study_root: Path, tmp_path: Path) -> None:
    stopped = Runs(small_study(methods={"scratch": {"start": "scratch"}}), str(tmp_path))
    assert run(stopped, DataRoot(study_root), CPU) == 2
    assert run(Runs(small_study(), str(tmp_path)), DataRoot(study_root), CPU) == 2
    assert run(Runs(small_study(), str(tmp_path)), DataRoot(study_root), CPU) == 0
    assert run(Runs(small_study(seeds=[0, 1]), str(tmp_path)), DataRoot(study_root), CPU) == 4


def test_study_reads_each_record_of_the_ledger_once(
    study_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(splits={"3 drops": {"by": "classes", "sizes": "4+3+3"}})
    run(Runs(study, str(tmp_path)), DataRoot(study_root), CPU)
    again = Runs(study, str(tmp_path))
    reads = count_reads(again.objects, monkeypatch)
    assert run(again, DataRoot(study_root), CPU) == 0
    assert [count for key, count in reads.items() if "/ledger/" in key] == [1] * 7


def test_parallel_processes_train_the_same_models_as_one(study_root: Path, tmp_path: Path) -> None:
    alone, together = (Runs(small_study(), str(tmp_path / name)) for name in ("alone", "together"))
    run(alone, DataRoot(study_root), CPU)
    run(together, DataRoot(study_root), Workers(jobs=2, device="cpu"))
    assert digests(alone) == digests(together)
    assert len(set(digests(alone).values())) == 4


def gradient_norm_of(start: Start, index: int) -> float:
    """Return the norm of the gradient of one sample's loss."""
    image = start.normalize(start.train.images[[index]])
    loss = torch.nn.functional.cross_entropy(start.network(image), start.train.labels[[index]])
    gradients = torch.autograd.grad(loss, list(start.network.parameters()))
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


def test_extra_measurements_are_stored_and_reported(study_root: Path, tmp_path: Path) -> None:
    methods = {"scratch": {"start": "scratch"}, "naive": {}}
    study = small_study(methods=methods, measures=["weight_correlation", "gradient_norms"])
    runs = Runs(study, str(tmp_path / "store"))
    run(runs, DataRoot(study_root), CPU)
    ran = {one.cell.method: one for one in runs.ended_runs()}
    figures = {method: one.measures for method, one in ran.items() if method != FIRST}
    naive = ran["naive"]
    start = prepare(make_context(runs.store(naive.record.task), runs.task(naive.cell), "cpu"), runs.plan(naive.cell))
    new = (start.train.drop == 1).nonzero().squeeze(1)
    expected = sum(gradient_norm_of(start, index) for index in new.tolist()) / len(new)
    assert figures["naive"]["gradient norm, new, start"] == pytest.approx(expected, rel=1e-4)
    assert figures["scratch"]["correlation of weights"] > 0.5
    for by_name in figures.values():
        assert by_name["gradient norm, new, end"] != by_name["gradient norm, new, start"]
    page_of = report.write_report(study, runs.ended_runs(), tmp_path / "evidence", "study-store").read_text()
    assert f"| naive | {figures['naive']['correlation of weights']:.4g} |" in page_of


def test_stop_on_test_uses_the_test_split_without_holdout(study_root: Path, tmp_path: Path) -> None:
    for label, digit in enumerate((study_root / "digits").iterdir()):
        for number, path in enumerate(sorted(digit.iterdir())[:12]):
            to = tmp_path / "data" / "split" / ("test" if number < 4 else "train") / f"c{label}" / path.name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
    study = small_study(stop_on="test", data=[{"name": "split"}])
    runs = Runs(study, str(tmp_path / "store"))
    drops = commit_drops(study, "7+3", runs.task(next(cells(study, 1))), runs.objects, DataRoot(tmp_path / "data"))
    assert [drop.samples(split) for drop in drops for split in ("train", "val", "test")] == [56, 28, 28, 24, 12, 12]
    assert [drop.held_out for drop in drops] == [{}, {}]


def test_drops_have_the_configured_number_of_images_per_class(study_root: Path, tmp_path: Path) -> None:
    study = small_study()
    runs = Runs(study, str(tmp_path))
    drops = commit_drops(study, "7+3", runs.task(next(cells(study, 1))), runs.objects, DataRoot(study_root))
    assert [len(drop.classes) for drop in drops] == [7, 3]
    assert [sum(drop.samples(split) for split in ("train", "val", "test")) for drop in drops] == [280, 120]


def test_limited_classes_are_the_first_by_name(study_root: Path, tmp_path: Path) -> None:
    study = small_study(
        data=[{"name": "digits", "classes": 4, "per_class": 20}], splits={"s": {"by": "classes", "sizes": "3+1"}}
    )
    runs = Runs(study, str(tmp_path))
    drops = commit_drops(study, "s", runs.task(next(cells(study, 1))), runs.objects, DataRoot(study_root))
    assert [drop.classes for drop in drops] == [("0", "1", "2"), ("3",)]
    assert [sum(drop.samples(split) for split in ("train", "val", "test")) for drop in drops] == [60, 20]


def test_component_scores_match_the_covariance_matrix() -> None:
    pixels = torch.randn(200, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 5, 12)
    is_train = torch.arange(200) < 150
    centred = pixels - pixels[is_train].mean(0)
    _, vectors = torch.linalg.eigh(centred[is_train].T @ centred[is_train])
    expected = centred @ vectors[:, -1]
    scores = component_scores(pixels, is_train)
    assert torch.corrcoef(torch.stack([scores, expected]))[0, 1].abs() > 0.9999
    assert torch.corrcoef(torch.stack([scores[is_train], pixels[is_train].mean(1)]))[0, 1] < 0, (
        "light images come first"
    )


def test_report_check_finds_changed_pages_and_study_files(study_root: Path, tmp_path: Path) -> None:
    studies = study_root / "studies"
    studies.mkdir(exist_ok=True)
    study = small_study(seeds=[0, 1])
    (studies / "small.yaml").write_text(study.model_dump_json())
    written = report.write_report(study, TWO_SEEDS, tmp_path, "study-store")
    assert report.check(tmp_path) == ["small"]
    pictures = sorted(path.suffix for path in (tmp_path / "small").glob("accuracy*"))
    assert pictures == [".png", ".svg"]
    written.write_text(written.read_text().replace("×4.50", "×4.60"))
    with pytest.raises(StudyError, match=r"small.md differs from its runs"):
        report.check(tmp_path)
    (studies / "small.yaml").write_text(study.model_copy(update={"seeds": (0, 1, 2)}).model_dump_json())
    with pytest.raises(StudyError, match="file has changed"):
        report.check(tmp_path)


def test_page_contains_findings_and_the_papers_numbers(tmp_path: Path) -> None:
    rows_of_paper = [
        {"row": "reset", "method": "init", "figures": {"accuracy": "41.0", "L_100": "×2.5"}},
        {"row": "kept", "figures": {"accuracy": "42.0"}},
    ]
    claim = {"item": "Verwimp et al., Table 1", "paper": "faster", "ours": "faster too", "agrees": "yes"}
    study = small_study(seeds=[0, 1], paper=rows_of_paper, claims=[claim], findings="The network is small.")
    report.write_report(small_study(seeds=[0, 1]), TWO_SEEDS, tmp_path, "study-store")
    text = report.rewrite_report(study, tmp_path).read_text()
    assert "| reset | init | 41.0 | 80.00 ± 15.00 | ×2.5 | ×4.50 ± 1.50 |" in text
    assert "| kept | - | 42.0 | - |  | - |" in text
    assert "| scratch | scratch | none |  |" in text
    assert "| init | previous run | initialization |  |" in text
    assert "| Verwimp et al., Table 1 | faster | faster too | yes |" in text
    assert "The network is small." in text
    assert "6.00 device-hours" in text


def test_readme_lists_each_item_of_the_papers_and_its_result(study_root: Path, tmp_path: Path) -> None:
    studies = study_root / "studies"
    studies.mkdir(exist_ok=True)
    claim = {"item": "Ash & Adams, Table 3", "paper": "noise helps", "ours": "it does not", "agrees": "no"}
    study = small_study(name="claiming", claims=[claim], seeds=[0, 1])
    (studies / "claiming.yaml").write_text(study.model_dump_json())
    (tmp_path / "README.md").write_text(f"# Ours\n\n{BEGIN}\n{END}\n\nThe end.\n")
    report.write_report(study, TWO_SEEDS, tmp_path, "study-store")
    text = (tmp_path / "README.md").read_text()
    assert "| Ash & Adams, Table 3 | noise helps | it does not ([page](claiming.md)) | no |" in text
    assert "| Verwimp et al., Figure 15 | - |" in text
    assert text.startswith("# Ours\n")
    assert text.endswith("The end.\n")
    assert sum(line.startswith(("| Verwimp", "| Ash")) for line in text.splitlines()) == 33
    (tmp_path / "README.md").write_text(text.replace("it does not", "it does"))
    with pytest.raises(StudyError, match="the table of results differs"):
        report.check(tmp_path)
    (studies / "claiming.yaml").unlink()


def test_evidence_pages_match_their_recorded_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.setenv("RETRAIN_STUDIES", str(root / "studies"))
    assert "digits" in report.check(root / "docs" / "evidence")


def test_repository_studies_repeat_known_items_and_have_plans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.setenv("RETRAIN_TASKS", str(root / "tasks"))
    assert len(VERWIMP) + len(ASH) == 33
    items = {f"{paper}, {item}" for paper, known in PAPERS.items() for item in known}
    for path in (root / "studies").glob("*.yaml"):
        study = load_study(str(path))
        assert study.name == path.stem
        assert set(study.repeats) <= items
        assert {claim.item for claim in study.claims} <= items
        for cell in cells(study, 2):
            if cell.seed == study.seeds[0]:
                task_of(study, cell, None)


def test_former_study_name_works_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RETRAIN_STUDIES", str(Path(__file__).parents[2] / "studies"))
    former = load_study("ash-table4-letter-mini")
    assert former == load_study("ash-table4-faithful-mini")
    (message,) = caplog.messages
    assert message.startswith("study ash-table4-letter-mini is now called ash-table4-faithful-mini")


def test_catalogue_lists_run_items_and_missing_data(study_root: Path, tmp_path: Path) -> None:
    studies = study_root / "studies"
    studies.mkdir(exist_ok=True)
    known = ["Verwimp et al., Table 1"]
    for name, data in (("has", "digits"), ("lacks", "imagenet-100"), ("ran", "digits")):
        study = small_study(name=name, repeats=known, data=[{"name": data}], seeds=[0, 1])
        (studies / f"{name}.yaml").write_text(study.model_dump_json())
    report.write_report(load_study("ran"), TWO_SEEDS, tmp_path, "study-store")
    found = {
        entry.study: entry.status for entry in entries(all_studies(), study_root, tmp_path) if entry.item == known[0]
    }
    assert found == {"has": "not run", "lacks": "needs data imagenet-100", "ran": "run mini"}
    others = [entry for entry in entries(all_studies(), study_root, tmp_path) if entry.item not in (*known, "try-out")]
    assert {entry.status for entry in others} == {"no study yet"}


def test_missing_data_set_error_states_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=rf"imagenet-100 is missing: put 100 classes .* into {tmp_path}"):
        find_data_set("imagenet-100", tmp_path, False, tmp_path / "scratch")
    with pytest.raises(StudyError, match=r"cifar10 is missing in .* pass --download"):
        find_data_set("cifar10", tmp_path, False, tmp_path / "scratch")


def test_torchvision_data_set_becomes_an_image_folder(tmp_path: Path) -> None:
    write_image_folder(FakeData(6, (3, 32, 32), num_classes=2), tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == 6
    assert {path.name for path in tmp_path.iterdir()} <= {"0", "1"}


def tar_of(folder: Path, path: Path) -> None:
    """Write a folder's images into a tar, as `class/name.png`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for image in sorted(folder.rglob("*.png")):
            tar.add(image, image.relative_to(folder).as_posix())


def test_tars_and_image_folders_give_drops_of_equal_size(study_root: Path, tmp_path: Path) -> None:
    for number, (split, start) in enumerate({"train": 0, "test": 12}.items()):
        for digit in sorted((study_root / "digits").iterdir()):
            for image in sorted(digit.iterdir())[start : start + (12, 6)[number]]:
                for to in (f"imagenet/{split}/{digit.name}", f"adaptiope/{digit.name}", f"loose/{split}/{digit.name}"):
                    (tmp_path / to).mkdir(parents=True, exist_ok=True)
                    shutil.copy(image, tmp_path / to)
        tar_of(tmp_path / "loose" / split, tmp_path / "tars" / f"{split}-0.tar")
    found = {}
    for name in ("imagenet", "adaptiope", "tars"):
        study = small_study(data=[{"name": name}])
        runs = Runs(study, str(tmp_path / "store"))
        drops = commit_drops(study, "7+3", runs.task(next(cells(study, 1))), runs.objects, DataRoot(tmp_path))
        found[name] = [sum(drop.samples(split) for split in ("train", "val", "test")) for drop in drops]
        assert [len(drop.classes) for drop in drops] == [7, 3]
    assert list(found.values()) == [[7 * 18, 3 * 18]] * 3


def test_list_of_missing_data_states_how_to_get_it(study_root: Path, tmp_path: Path) -> None:
    assert how_to_get("svhn", tmp_path).startswith("pass --download")
    (study_root / "studies").mkdir(exist_ok=True)
    study = small_study(name="far", data=[{"name": "adaptiope-real-life"}])
    (study_root / "studies" / "far.yaml").write_text(study.model_dump_json())
    assert f"Adaptiope's real_life images (gitlab.com/tringwald/adaptiope), as CLASS/*.jpg, into {tmp_path}" in "".join(
        list_missing(all_studies(), tmp_path)
    )


def test_unknown_study_lists_the_known_ones(study_root: Path, tmp_path: Path) -> None:
    (study_root / "studies").mkdir(exist_ok=True)
    (study_root / "studies" / "small.yaml").write_text(small_study().model_dump_json())
    with pytest.raises(StudyError, match=rf"no study 'smal' in {study_root}/studies; allowed: .*small"):
        load_study("smal")
    with pytest.raises(StudyError, match=r"nope/x.yaml: cannot be read: No such file"):
        load_study("nope/x.yaml")


def test_folder_without_studies_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETRAIN_STUDIES", str(tmp_path))
    with pytest.raises(StudyError, match=rf"no studies in {tmp_path}: .*RETRAIN_STUDIES"):
        all_studies()
    with pytest.raises(StudyError, match=rf"no study 'x' in {tmp_path}; allowed: none"):
        load_study("x")


def test_study_file_error_names_the_wrong_value_or_field(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(small_study().model_copy(update={"against": ("best",)}).model_dump_json())
    with pytest.raises(StudyError, match=r"bad.yaml: there is no method 'best'; allowed: scratch, naive, init"):
        load_study(str(path))
    path.write_text("name: x\nsede: [1]\n")
    with pytest.raises(StudyError, match=r"bad.yaml: sede: unknown field 'sede'; allowed: name, repeats, "):
        load_study(str(path))


def test_drops_of_a_split_are_listed_in_their_order(study_root: Path, tmp_path: Path) -> None:
    study = small_study(splits={"4+3+3": {"by": "classes", "sizes": "4+3+3"}})
    runs = Runs(study, str(tmp_path))
    task = runs.task(next(cells(study, 1)))
    commit_drops(study, "4+3+3", task, runs.objects, DataRoot(study_root))
    assert [drop.id for drop in runs.store(task.name).drops.all()] == ["drop-1", "drop-2", "drop-3"]
