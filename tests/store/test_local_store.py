"""Folder stores with racing and killed processes, and with the errors of a real file system."""

import os
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.processes import forkserver
from support.races import PROCESSES, claim_all, count_up, race

from retrain.errors import StoreError
from retrain.store import LocalStore, open_store

SIZE = 4 << 20


def write_forever(url: str, letter: bytes) -> None:
    store = open_store(url)
    while True:
        store.write("object", letter * SIZE)


@contextmanager
def writers(url: str, letters: tuple[bytes, ...]) -> Iterator[None]:
    """Start processes that each write one letter in a loop. Kill them at the end."""
    processes = [forkserver().Process(target=write_forever, args=(url, letter)) for letter in letters]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()
            process.close()


def test_each_claim_of_racing_processes_has_one_winner(tmp_path: Path) -> None:
    outcomes = race(claim_all, str(tmp_path), None)
    assert sorted(key for won in outcomes for key in won) == sorted(f"claims/{index}" for index in range(20))


def test_racing_swaps_lose_no_update(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.create("counter", b"0 -")
    attempts = race(count_up, str(tmp_path), None)
    assert store.read("counter")[0].split()[0] == b"%d" % (20 * PROCESSES)
    assert sum(attempts) >= 21 * PROCESSES - 1  # all processes but one had to retry their first swap


def test_reader_never_sees_partial_objects_of_killed_writers(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("object", b"-" * SIZE)
    seen = Counter[bytes]()
    with writers(str(tmp_path), (b"a", b"b")):
        while seen[b"a"] < 50 or seen[b"b"] < 50:
            data, _ = store.read("object")
            assert data == data[:1] * SIZE
            seen[data[:1]] += 1
    data, version = store.read("object")
    assert data == data[:1] * SIZE
    assert [entry.key for entry in store.list()] == ["object"]
    store.replace("object", b"killed writers hold no lock", version)


def test_stored_files_get_the_users_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    store = LocalStore(tmp_path / "store")
    store.create("created", b"")
    store.write("written", b"")
    store.download("created", tmp_path / "downloaded")
    made = ("ordinary", "store/created", "store/written", "downloaded")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in made}
    assert len(modes) == 1


def test_edit_by_hand_changes_the_version(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    version = store.create("champion.json", b"1")
    before = (tmp_path / "champion.json").stat()
    (tmp_path / "champion.json").write_bytes(b"2")
    os.utime(tmp_path / "champion.json", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.read("champion.json")[1] != version


def test_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("file", b"1")
    with pytest.raises(StoreError, match="file/below"):
        store.write("file/below", b"2")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["file", "lock"]


def test_listing_a_missing_store_folder_does_not_create_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "later")
    assert list(store.list()) == []
    assert not (tmp_path / "later").exists()


def test_unwritable_store_folder_gives_a_one_line_error(tmp_path: Path) -> None:
    store = LocalStore(Path("/proc/retrain"))  # no folder can be created there
    with pytest.raises(StoreError, match=r"^/proc/retrain: k: No such file or directory$"):
        store.write("k", b"")


def test_full_disk_is_reported_with_the_remedy(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with (
        pytest.raises(
            StoreError, match=r": k: No space left on device\. Free space there, then run the command again$"
        ),
        store._translate_errors("k"),
    ):
        Path("/dev/full").write_bytes(b"1")  # Linux refuses each write as on a full disk


def test_local_store_does_not_import_boto3() -> None:
    program = "import sys; from retrain.store import open_store; open_store('x'); print('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_store_at_the_path_of_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(StoreError, match=r"photo\.png: listing: Not a directory\. Check the task's `store`"):
        list(LocalStore(tmp_path / "photo.png").list())


def test_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    """A link to itself, a link to a folder that contains it, and two folders that link to each other."""
    store = LocalStore(tmp_path)
    for key in ("drops/a/1.png", "drops/b/2.png"):
        store.write(key, b"image")
    for link, target in (("a/self", "self"), ("a/up", ".."), ("a/other", "../b"), ("b/other", "../a")):
        (tmp_path / "drops" / link).symlink_to(target)
    assert [entry.key for entry in store.list("drops/")] == [
        "drops/a/1.png",
        "drops/a/other/2.png",
        "drops/b/2.png",
        "drops/b/other/1.png",
    ]
    assert [entry.key for entry in store.list_unusual("drops/a/")] == [
        "drops/a/other/other",
        "drops/a/self",
        "drops/a/up",
    ]
    assert list(store.folders("drops/")) == ["a", "b"]
