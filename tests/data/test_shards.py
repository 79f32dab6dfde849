"""Equal samples give equal shards. WebDataset can read them, and damage is detected."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.pictures import png, tar
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from retrain.data.shards import Encoded, read_shard, split_name, write_shards
from retrain.errors import DropError
from retrain.records import Shard

SAMPLES = [
    Encoded(f"{name}/{number:02d}", name, "png", png(number)) for name in ("cat", "größe") for number in range(10)
]


def described(path: Path, samples: int) -> Shard:
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    return Shard(name=path.name, split="train", samples=samples, size=len(data), sha256=sha256)


def read(path: Path, shard: Shard) -> list[Encoded]:
    with path.open("rb") as stream:
        return list(read_shard(stream, shard, "the store: the shard"))


def test_written_shard_is_read_back(tmp_path: Path) -> None:
    [shard] = write_shards(SAMPLES, "train", tmp_path)
    assert shard == described(tmp_path / shard.name, samples=20)
    assert read(tmp_path / shard.name, shard) == SAMPLES


def test_shards_fill_to_the_limit_and_keep_samples_in_order(tmp_path: Path) -> None:
    shards = list(write_shards(SAMPLES, "val", tmp_path, limit=3 * len(png(0))))
    assert [shard.samples for shard in shards] == [3, 3, 3, 3, 3, 3, 2]
    assert [shard.name.rpartition("-")[0] for shard in shards] == [f"val-{number:06d}" for number in range(7)]
    assert [sample for shard in shards for sample in read(tmp_path / shard.name, shard)] == SAMPLES
    assert {path.name for path in tmp_path.iterdir()} == {shard.name for shard in shards}


def test_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (list(write_shards(SAMPLES, "train", tmp_path / name)) for name in "ab")
    assert first == second


def test_webdataset_reads_written_shards(tmp_path: Path) -> None:
    long = Encoded(f"cat/{'x' * 300}", "cat", "jpg", b"as it came")
    [shard] = write_shards([*SAMPLES, long], "train", tmp_path)
    with (tmp_path / shard.name).open("rb") as stream:
        samples = list(group_by_keys(tar_file_expander([{"url": shard.name, "stream": stream}])))
    assert [(sample["__key__"], sample["cls"].decode()) for sample in samples] == [
        (sample.key, sample.class_name) for sample in (*SAMPLES, long)
    ]
    assert samples[-1]["jpg"] == b"as it came"


@given(st.text(st.sampled_from("a./é"), max_size=9))
@example("a/.b.png")
@example("a.b/c.seg.png")
def test_names_are_split_as_in_webdataset(name: str) -> None:
    assert (split_name(name) or (None, None)) == base_plus_ext(name)


def test_sample_without_cls_file_has_its_folders_class(tmp_path: Path) -> None:
    path = tar(tmp_path / "own.tar", [("./pets/cat/1.png", png(1)), ("./pets/cat/1.json", b"{}")])
    assert read(path, described(path, samples=1)) == [Encoded("./pets/cat/1", "cat", "png", png(1))]


@pytest.mark.parametrize(
    "names", [["1.png"], ["cat/1.json"], ["cat/1.png", "cat/1.jpg"], ["cat/1.png", "cat/1.png"], ["cat/1.cls"]]
)
def test_sample_that_is_not_one_image_of_a_class_is_refused(tmp_path: Path, names: list[str]) -> None:
    path = tar(tmp_path / "own.tar", [(name, b"\xff") for name in names])
    with pytest.raises(DropError, match="the store: the shard: "):
        read(path, described(path, samples=1))


@pytest.mark.parametrize("keep", [0, 100, 512, 700, 1024, 5000, -10240, -1])
def test_truncated_shard_is_refused(tmp_path: Path, keep: int) -> None:
    [shard] = write_shards(SAMPLES, "train", tmp_path)
    path = tmp_path / shard.name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DropError, match="the store: the shard: "):
        read(path, shard)


@pytest.mark.parametrize("where", [b"IHDR", b"cat/05", b"ustar", "größe".encode()])
def test_one_changed_bit_is_detected(tmp_path: Path, where: bytes) -> None:
    [shard] = write_shards(SAMPLES, "train", tmp_path)
    path = tmp_path / shard.name
    data = bytearray(path.read_bytes())
    data[data.find(where)] ^= 1
    path.write_bytes(data)
    with pytest.raises(DropError, match="the store: the shard: "):
        read(path, shard)


def test_more_samples_than_in_the_manifest_are_refused(tmp_path: Path) -> None:
    [shard] = write_shards(SAMPLES, "train", tmp_path)
    with pytest.raises(DropError, match=r"20 samples in .* says 19"):
        read(tmp_path / shard.name, shard.model_copy(update={"samples": 19}))


def test_link_in_a_shard_is_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("cat/2.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    path = tar(tmp_path / "own.tar", [("cat/1.png", png(1)), (link, b"")])
    with pytest.raises(DropError, match=r"the store: the shard: cat/2\.png: a link or a special file"):
        read(path, described(path, samples=1))


def test_shard_is_read_sample_by_sample(tmp_path: Path) -> None:
    [shard] = write_shards([Encoded(f"cat/{n}", "cat", "png", bytes(100_000)) for n in range(50)], "train", tmp_path)
    with (tmp_path / shard.name).open("rb", buffering=0) as stream:
        next(read_shard(stream, shard, "the shard"))
        assert stream.seek(0, io.SEEK_CUR) < 400_000
