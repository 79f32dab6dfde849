"""Measure how fast photographs are packed and validated, compared with a bare loop that only hashes and decodes them.

`retrain drop pack` reads photographs from a folder. A watcher validates the same photographs in the shards of a drop,
with and without a cache of decoded images. The bare loop reads the shards, computes their SHA-256 digests, and decodes
each image with Pillow (libjpeg-turbo), in as many threads as there are cores. A second bare loop also resizes the
images, as the cache requires. All programs alternate in one process. The first turn is a warm-up.

A share is the bare loop's time divided by the time of `retrain`. The hours for ImageNet's 1.3 million images follow
from the median wall time. The last results are the peak memory of processes that validate 5,000 and 50,000 icons.
"""

import hashlib
import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from lib.pictures import icons, photographs
from lib.report import parser, report
from lib.spent import forget_peak, peak_mb
from PIL import Image

from retrain.config.task import Data, Task
from retrain.data.packing import pack
from retrain.data.shards import Encoded, image_locations, write_shards
from retrain.data.uploads import ingest_drop
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import in_chunks
from retrain.utils.processes import available_cores

CHUNK, IMAGENET = 16, 1_300_000
"""Number of images that a thread of the bare loop decodes at a time, and number of images in ImageNet."""
BARE, RESIZED = "bare: hash, decode", "bare: hash, decode, resize"
COMPARED = {"pack": BARE, "validate": BARE, "validate, keep decoded": RESIZED}


class Seconds(NamedTuple):
    """Seconds that some work took."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Seconds:
    """Return the seconds that some work takes in this process and all its threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def write_drop(store: Path, samples: Iterable[Encoded]) -> list[Path]:
    """Write the shards of a drop, as a producer uploads them to a folder, and return them."""
    drop = store / "photos" / "drops" / "d"
    drop.mkdir(parents=True)
    return [drop / shard.name for shard in write_shards(samples, "train", drop)]


def validate(store: Path, task: Task, cache: Path | None) -> None:
    """Validate and commit the drop in a store."""
    ingest_drop("d", task, TaskStore(LocalStore(store), task.name), cache_dir=cache)


def decode(images: list[bytes], side: int, resize: bool) -> None:
    """Decode images as `retrain` does: at a smaller scale if the result is at least twice the needed size."""
    for data in images:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (2 * side, 2 * side))
        image.load()
        if resize:
            image.resize((side, side), Image.Resampling.BICUBIC)


class Photographs:
    """Photographs in a folder of classes and in the shards of an uploaded drop."""

    def __init__(self, folder: Path, count: int, side: int) -> None:
        self.folder, self.side, self.images = folder, side, folder / "images"
        self.task = Task(name="photos", store=str(folder / "store"), data=Data(image_size=side))
        for sample in photographs(count):
            path = self.images / f"{sample.key}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.data)
        self.shards = write_drop(folder / "store", photographs(count))

    def pack(self) -> None:
        """Pack the folder into an empty store."""
        pack(self.images, self.task, TaskStore(LocalStore(self.folder / "packed"), "photos"))

    def validate(self, cache: Path | None = None) -> None:
        """Validate and commit the uploaded drop."""
        validate(self.folder / "store", self.task, cache)

    def bare(self, resize: bool) -> None:
        """Read and hash each shard, and decode its images in threads."""
        with ThreadPoolExecutor(available_cores()) as pool:
            for path in self.shards:
                data = path.read_bytes()
                hashlib.sha256(data).digest()
                images = (data[at : at + size] for _, _, at, size in image_locations(io.BytesIO(data), str(path)))
                for _ in pool.map(lambda chunk: decode(chunk, self.side, resize), in_chunks(images, CHUNK)):
                    pass

    def clear(self) -> None:
        """Remove what packing and validating wrote."""
        for path in (self.folder / "packed", self.folder / "cache"):
            shutil.rmtree(path, ignore_errors=True)
        for pattern in ("drop.json", "samples-*"):
            for path in (self.folder / "store" / "photos" / "drops" / "d").glob(pattern):
                path.unlink()

    def turn(self) -> dict[str, Seconds]:
        """Return the seconds of each program."""
        programs: dict[str, Callable[[], None]] = {
            "pack": self.pack,
            "validate": self.validate,
            BARE: lambda: self.bare(False),
            "validate, keep decoded": lambda: self.validate(self.folder / "cache"),
            RESIZED: lambda: self.bare(True),
        }
        seconds = {}
        for name, program in programs.items():
            seconds[name] = timed(program)
            self.clear()
        return seconds


def summary(turns: list[dict[str, Seconds]], count: int) -> dict[str, object]:
    """Return the milliseconds for an image, the shares of the bare loops, and the hours for ImageNet."""

    def median(way: str, clock: int) -> float:
        return statistics.median(each[way][clock] for each in turns)

    def share(way: str, clock: int) -> float:
        return round(statistics.median(each[COMPARED[way]][clock] / each[way][clock] for each in turns), 3)

    return {
        "ms of processor time an image": {way: round(1e3 * median(way, 1) / count, 3) for way in turns[0]},
        "share of the bare loop, cpu": {way: share(way, 1) for way in COMPARED},
        "share of the bare loop, wall": {way: share(way, 0) for way in COMPARED},
        "hours for 1.3 million": {way: round(median(way, 0) / count * IMAGENET / 3600, 2) for way in COMPARED},
    }


def validation_peak_mb(count: int) -> float:
    """Return the peak resident memory of this process while it validates icons, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        write_drop(Path(folder), icons(count))
        forget_peak()
        validate(Path(folder), Task(name="photos", store=folder, data=Data(image_size=32)), None)
        return peak_mb()


def main() -> None:
    """Alternate between all programs for each image size, and then measure the memory."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--images", type=int, default=500)
    options.add_argument("--sides", type=int, nargs="*", default=[64, 224], help="image sizes of the task")
    options.add_argument(
        "--icons", type=int, nargs="*", default=[5_000, 50_000], help="numbers of icons for the memory measurement"
    )
    chosen = options.parse_args()
    results: dict[str, object] = {}
    for side in chosen.sides:
        with tempfile.TemporaryDirectory() as folder:
            found = Photographs(Path(folder), chosen.images, side)
            turns = [found.turn() for _ in range(1 + chosen.turns)][1:]
        results[f"{side}x{side}"] = summary(turns, chosen.images)
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {count: pool.apply(validation_peak_mb, (count,)) for count in chosen.icons}
    report({"images": chosen.images, "image size": results, "peak memory with icons, MB": peaks}, chosen.output)


if __name__ == "__main__":
    main()
