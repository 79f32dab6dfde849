"""The shard cache never exceeds its limit, keeps no damaged shard, and evicts no shard in use."""

import errno
import multiprocessing
import os
from collections.abc import Iterator
from fcntl import LOCK_EX, flock
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from support.streams import KEYS, encoded, upload

from retrain.data.stream.reading import shard_refs
from retrain.data.stream.shard_cache import ShardCache, ShardRef
from retrain.errors import DropError, StoreError, UserError
from retrain.store import LocalStore


class Counting(LocalStore):
    """A local store that writes a file for every download. The files count the downloads of all processes."""

    def download(self, key: str, path: Path) -> None:
        """Count the download, and copy the object."""
        (self.root.parent / f"download-{os.urandom(8).hex()}").touch()
        super().download(key, path)


def downloads(store: LocalStore) -> int:
    return len(list(store.root.parent.glob("download-*")))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return Counting(tmp_path / "store")


@pytest.fixture
def shards(tmp_path: Path) -> list[ShardRef]:
    return shard_refs(upload(LocalStore(tmp_path / "store"), tmp_path / "d-1", "d-1", encoded(150)), KEYS)


def cache_of(store: LocalStore, tmp_path: Path, room: int, shards: list[ShardRef]) -> ShardCache:
    return ShardCache(store, tmp_path / "cache", room * max(ref.shard.size for ref in shards))


def sizes(cache: ShardCache) -> int:
    return sum(path.stat().st_size for path in cache.folder.iterdir())


def test_shard_cache_never_exceeds_its_limit(store: LocalStore, shards: list[ShardRef], tmp_path: Path) -> None:
    cache = cache_of(store, tmp_path, 3, shards)
    assert len(shards) > 6
    for ref in shards * 2:
        with cache.hold(ref) as file:
            assert file.read() == store.read(ref.key)[0]
        assert sizes(cache) <= cache.limit


def test_shard_cache_evicts_the_least_recently_used(store: LocalStore, shards: list[ShardRef], tmp_path: Path) -> None:
    cache = cache_of(store, tmp_path, 3, shards)
    for number in (0, 1, 2, 0, 3):
        cache.hold(shards[number]).close()
    assert [cache.path(ref).exists() for ref in shards[:4]] == [True, False, True, True]
    cache.hold(shards[0]).close()
    assert downloads(store) == 4


def test_shard_cache_keeps_used_shards_and_reports_lack_of_space(
    store: LocalStore, shards: list[ShardRef], tmp_path: Path
) -> None:
    cache = cache_of(store, tmp_path, 2, shards)
    with cache.hold(shards[0]), cache.hold(shards[1]):
        with pytest.raises(UserError, match=r"no room for [\d,]+ bytes: .* data\.stream\.cache"):
            cache.hold(shards[2])
        assert cache.path(shards[0]).exists()
        assert cache.path(shards[1]).exists()
    cache.hold(shards[2]).close()


def test_damaged_shard_is_downloaded_again(store: LocalStore, shards: list[ShardRef], tmp_path: Path) -> None:
    cache_of(store, tmp_path, 3, shards).hold(shards[0]).close()
    path = cache_of(store, tmp_path, 3, shards).path(shards[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with cache_of(store, tmp_path, 3, shards).hold(shards[0]) as file:
        assert file.read() == whole
    assert downloads(store) == 2


def test_shard_that_differs_from_its_manifest_is_refused(
    store: LocalStore, shards: list[ShardRef], tmp_path: Path
) -> None:
    store.write(shards[0].key, store.read(shards[1].key)[0])
    cache = cache_of(store, tmp_path, 3, shards)
    for _ in range(2):
        with pytest.raises(DropError, match=rf"{shards[0].key}: its SHA-256 differs from the manifest's"):
            cache.hold(shards[0])
    assert sizes(cache) == 0


def test_space_reserved_by_a_dead_process_is_freed(store: LocalStore, shards: list[ShardRef], tmp_path: Path) -> None:
    cache = cache_of(store, tmp_path, 1, shards)
    cache.folder.mkdir()
    (cache.folder / "0123.part").write_bytes(bytes(cache.limit))
    cache.hold(shards[0]).close()
    assert not (cache.folder / "0123.part").exists()


def test_own_reservation_of_a_dead_process_is_not_awaited(
    store: LocalStore, shards: list[ShardRef], tmp_path: Path
) -> None:
    cache = cache_of(store, tmp_path, 2, shards)
    with cache.hold(shards[0]):
        cache.path(shards[1]).with_suffix(".part").write_bytes(bytes(shards[1].shard.size))
        cache.hold(shards[1]).close()
    assert cache.path(shards[1]).exists()


def go_through(store: LocalStore, folder: Path, shards: list[ShardRef], limit: int, go: Barrier) -> None:
    cache = ShardCache(store, folder, limit)
    go.wait()
    for ref in shards:
        with cache.hold(ref) as file:
            assert file.read() == store.read(ref.key)[0]


def read_in_processes(store: LocalStore, cache: ShardCache, orders: list[list[ShardRef]]) -> Iterator[int | None]:
    """Read shards in several processes at the same time, and yield their exit codes."""
    context = multiprocessing.get_context("fork")
    go = context.Barrier(len(orders))
    processes = [
        context.Process(target=go_through, args=(store, cache.folder, order, cache.limit, go)) for order in orders
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        yield process.exitcode


def test_processes_share_fetched_shards(store: LocalStore, shards: list[ShardRef], tmp_path: Path) -> None:
    cache = cache_of(store, tmp_path, len(shards), shards)
    assert set(read_in_processes(store, cache, [shards] * 4)) == {0}
    assert downloads(store) == len(shards)


def test_processes_with_different_shards_stay_within_the_limit(
    store: LocalStore, shards: list[ShardRef], tmp_path: Path
) -> None:
    cache = cache_of(store, tmp_path, 4, shards)
    assert set(read_in_processes(store, cache, [shards, shards[::-1], shards[::2] * 2])) == {0}
    assert sizes(cache) <= cache.limit


def test_shard_whose_download_ends_meanwhile_is_counted(
    store: LocalStore, shards: list[ShardRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(store, tmp_path, 2, shards)
    other = ShardCache(store, cache.folder, cache.limit)
    part = cache.path(shards[1]).with_suffix(".part")
    list_folder = Path.iterdir

    def listed_before_the_end_of_a_download(folder: Path) -> Iterator[Path]:
        listed = list(list_folder(folder))
        if part in listed:  # as another process does when its download ends
            part.unlink()
            store.download(shards[1].key, cache.path(shards[1]))
        return iter(listed)

    with cache.hold(shards[0]):
        part.write_bytes(bytes(shards[1].shard.size))
        monkeypatch.setattr(Path, "iterdir", listed_before_the_end_of_a_download)
        other.hold(shards[2]).close()
        monkeypatch.undo()
        assert sizes(cache) <= cache.limit


class Crowded(LocalStore):
    """A local store whose first download disappears immediately, as if another process needed the space."""

    gone = False

    def download(self, key: str, path: Path) -> None:
        """Copy the object, and remove the first copy."""
        super().download(key, path)
        if not self.gone:
            self.gone = True
            path.unlink()


def test_shard_evicted_during_its_download_is_fetched_again(shards: list[ShardRef], tmp_path: Path) -> None:
    store = Crowded(tmp_path / "store")
    with cache_of(store, tmp_path, 1, shards).hold(shards[0]) as file:
        assert file.read() == store.read(shards[0].key)[0]
    assert store.gone


class Full(LocalStore):
    """A local store whose downloads go to a disk without space."""

    def download(self, key: str, path: Path) -> None:
        """Raise the error of a write to the disk."""
        with self._translate_errors(key):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_of_the_cache_is_named(shards: list[ShardRef], tmp_path: Path) -> None:
    cache = cache_of(Full(tmp_path / "store"), tmp_path, 1, shards)
    with pytest.raises(StoreError, match=rf"^{cache.folder}: No space left on device\. .* set \$RETRAIN_CACHE"):
        cache.hold(shards[0])


def test_fetched_shard_is_counted_once(store: LocalStore, shards: list[ShardRef], tmp_path: Path) -> None:
    cache = cache_of(store, tmp_path, 2, shards)
    with cache.hold(shards[0]) as first:
        kept = cache.path(shards[0]).with_suffix(".part")
        kept.write_bytes(bytes(shards[0].shard.size))
        with kept.open("rb") as fetching:
            flock(fetching, LOCK_EX)
            cache.hold(shards[1]).close()
        assert first.read()
