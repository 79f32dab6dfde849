"""Any bytes are either refused with a clear error, or read as a record that round-trips."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.histories import make_drop
from support.pictures import png
from support.uploads import good, shard

from retrain.config.loading import parse_task
from retrain.config.task import Task
from retrain.config.template import task_template
from retrain.data.shards import Encoded, encoded, read_samples, read_shard, write_shards
from retrain.data.tars import HashingReader
from retrain.errors import DropError, TaskError
from retrain.records import Drop, LeftOut, Shard
from retrain.records.drop import drop_digest, parse_manifest

T = TypeVar("T")

unhurried = settings(deadline=None, max_examples=200, derandomize=True)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return the bytes after a few of them were changed, removed or inserted."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 1, 8, 512]))
        data[start : start + length] = draw(st.binary(max_size=12))
    return bytes(data)


def manifest() -> Drop:
    """Return a manifest with something in every field."""
    drop = make_drop("week-45", 1, ("cat", "größe"))
    shards = (Shard(name="train-0.tar", split="train", samples=20, size=20480, sha256="0" * 64),)
    drop = drop.model_copy(
        update={"shards": shards, "left_out": (LeftOut(where="train-0.tar", key="1", cause="torn"),)}
    )
    return drop.model_copy(update={"digest": drop_digest(drop)})


def unless_refused(read: Callable[[], T], refusal: type[Exception]) -> T | None:
    """Return the value read, or None if reading raises the error `refusal`. Any other error is a bug."""
    try:
        return read()
    except refusal:
        return None


def check_manifest(data: bytes) -> None:
    if drop := unless_refused(lambda: parse_manifest(data), DropError):
        assert parse_manifest(drop.to_bytes()) == drop


@unhurried
@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()) | damaged(manifest().to_bytes()))
def test_manifest_of_any_bytes_is_refused_or_round_trips(data: bytes) -> None:
    check_manifest(data)


@unhurried
@given(st.sampled_from(sorted(Drop.model_fields)), json_values)
def test_manifest_with_any_field_value_is_refused_or_round_trips(field: str, value: object) -> None:
    check_manifest(json.dumps(json.loads(manifest().to_bytes()) | {field: value}).encode())


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40) | st.sampled_from(
    ["a/1.png", "a/1.cls", "a/2.jpg", "../1.png", "/a/1.png", "a/", "a", "x" * 300 + ".png", "a/.png", "__a__.png"]
)
kinds = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, b"S", b"7"]
)
extras = st.dictionaries(st.sampled_from(["size", "path", "mtime", "GNU.sparse.map", "GNU.sparse.major", "x"]), names)


@st.composite
def strange_tars(draw: st.DrawFn) -> bytes:
    """Draw tar files that are well-formed but have unusual members."""
    members: list[tuple[str | tarfile.TarInfo, bytes]] = []
    for _ in range(draw(st.integers(0, 5))):
        member = tarfile.TarInfo(draw(names).replace("\0", "?"))
        member.type, member.linkname, member.pax_headers = draw(kinds), "a", draw(extras)
        members.append((member, draw(st.sampled_from([b"", b"cat", png(1)]))))
    return shard(members, draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])))


def check_shard(data: bytes) -> None:
    """Read bytes as a shard. If they are accepted, their samples must stay equal after writing and reading again."""

    def read() -> list[Encoded]:
        return [encoded(key, files) for key, files in read_samples(HashingReader(io.BytesIO(data)), "the shard")]

    samples, again = unless_refused(read, DropError) or [], list[Encoded]()
    with TemporaryDirectory() as folder:
        for written in write_shards(samples, "train", Path(folder)):
            with (Path(folder) / written.name).open("rb") as stream:
                again.extend(read_shard(stream, written, "the copy"))
    assert again == samples


@unhurried
@given(st.binary(max_size=2000) | damaged(shard(good(4))) | damaged(shard(good(3), tarfile.GNU_FORMAT)))
def test_shard_of_any_bytes_is_refused_or_round_trips(data: bytes) -> None:
    check_shard(data)


@unhurried
@given(strange_tars())
def test_shard_of_any_members_is_refused_or_round_trips(data: bytes) -> None:
    check_shard(data)


def check_task(text: str) -> None:
    if task := unless_refused(lambda: parse_task(text, "the task"), TaskError):
        assert parse_task(json.dumps(task.model_dump(mode="json")), "the task") == task


STARTER = yaml.safe_load(task_template("pets"))
fields = st.sampled_from(
    [(part, field) for part in STARTER if isinstance(STARTER[part], dict) for field in STARTER[part]]
)
values = json_values | st.sampled_from([0, -1, 1.5, "adam", "resnet18", {"name": "adam"}, {"name": "none"}, [1, 2, 3]])


@unhurried
@given(
    st.text()
    | json_values.map(json.dumps)
    | damaged(task_template("pets").encode()).map(lambda data: data.decode("latin-1"))
)
def test_task_file_of_any_text_is_refused_or_round_trips(text: str) -> None:
    check_task(text)


@unhurried
@given(st.sampled_from(sorted(Task.model_fields)) | fields, values)
def test_task_with_any_field_value_is_refused_or_round_trips(place: str | tuple[str, str], value: object) -> None:
    document = json.loads(json.dumps(STARTER))
    if isinstance(place, tuple):
        document[place[0]][place[1]] = value
    else:
        document[place] = value
    check_task(json.dumps(document))
