"""WebDataset shards: tars in which a sample is `key.png` (the image as it came) and `key.cls` (its class's name)."""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, cast

from webdataset.tariterators import group_by_keys
from webdataset.writer import TarWriter

from retrain.data.images import EXTENSIONS
from retrain.errors import DropError
from retrain.records import Shard
from retrain.words import Split

SHARD_BYTES = 64_000_000


class Encoded(NamedTuple):
    """One sample as a shard holds it: key, class name, and the bytes of the image's file with their extension."""

    key: str
    class_name: str
    extension: str
    data: bytes


def write_shards(samples: Iterable[Encoded], split: Split, folder: Path, limit: int = SHARD_BYTES) -> list[Shard]:
    """Write samples into `folder` as shards of about `limit` bytes of images; the same samples give the same bytes."""
    stream, shards = iter(samples), list[Shard]()
    while first := next(stream, None):
        shards.append(_write_shard(_take(chain([first], stream), limit), split, len(shards), folder))
    return shards


def _take(stream: Iterator[Encoded], limit: int) -> Iterator[Encoded]:
    taken = 0
    while taken < limit and (sample := next(stream, None)):
        taken += len(sample.data)
        yield sample


def _write_shard(samples: Iterator[Encoded], split: Split, number: int, folder: Path) -> Shard:
    """Name the shard after its content too, so that two drops packed under one id at once cannot mix."""
    path = folder / "unnamed.tar"
    count = _write_tar(samples, path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    path = path.rename(folder / f"{split}-{number:06d}-{sha256[:8]}.tar")
    return Shard(name=path.name, split=split, samples=count, size=path.stat().st_size, sha256=sha256)


def _write_tar(samples: Iterator[Encoded], path: Path) -> int:
    """Every field of a header is fixed, so equal samples are equal bytes; PAX, as other formats refuse long names."""
    fixed = {"user": "", "group": "", "mode": 0o444, "mtime": 0, "format": "PAX_FORMAT"}
    count = 0
    with path.open("wb") as file, TarWriter(file, encoder=False, **fixed) as tar:
        for sample in samples:
            tar.write({"__key__": sample.key, sample.extension: sample.data, "cls": sample.class_name.encode()})
            count += 1
    return count


def read_shard(stream: BinaryIO, shard: Shard, where: str) -> Iterator[Encoded]:
    """Yield the samples of a shard as they stream by. A sample without `cls` is of the class that its folder names.

    Raises `DropError`, naming `where`, if the tar is torn, if a sample is not one image of a class, or (once all is
    read) if size, SHA-256 or number of samples are not the manifest's. Only a stream that ends without is whole.
    """
    hashing, samples = Hashing(stream), 0
    for sample in read_samples(hashing, where):
        samples += 1
        yield sample
    while hashing.read(1 << 20):
        pass
    if (samples, hashing.size, hashing.sha256) != (shard.samples, shard.size, shard.sha256):
        raise DropError(
            f"{where}: {samples} samples in {hashing.size} bytes with SHA-256 {hashing.sha256}, where the manifest "
            f"says {shard.samples}, {shard.size} and {shard.sha256}"
        )


def read_samples(stream: "BinaryIO | Hashing", where: str) -> Iterator[Encoded]:
    """Yield the samples of a shard of which nothing is known. Raises `DropError`, naming `where`, as above."""
    try:
        for sample in group_by_keys(_members(stream, where)):
            yield _encoded(sample, where)
    except (tarfile.TarError, ValueError) as error:
        raise DropError(f"{where}: torn or damaged: {error.args[0]}") from error


class Hashing:
    """A stream that remembers the size and SHA-256 of what was read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._sha256, self.size = stream, hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._sha256.update(data)
        self.size += len(data)
        return data

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


def _members(stream: "BinaryIO | Hashing", where: str) -> Iterator[dict[str, str | bytes]]:
    with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as tar:
        for member in tar:
            if file := tar.extractfile(member):
                yield {"fname": member.name, "data": file.read(), "__url__": where}


def _encoded(sample: dict[str, bytes], where: str) -> Encoded:
    key = str(sample["__key__"])
    images = sorted(EXTENSIONS & sample.keys())
    class_name = sample["cls"].decode() if "cls" in sample else PurePosixPath(key).parent.name
    if len(images) != 1 or not class_name:
        raise DropError(f"{where}: {key}: expected one image ({', '.join(sorted(EXTENSIONS))}) and its class")
    return Encoded(key, class_name, images[0], sample[images[0]])
