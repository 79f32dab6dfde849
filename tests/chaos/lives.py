"""Run many lives, a few at a time, and audit each at its end."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from random import Random

from support.faulty_s3 import faulty
from support.store_faults import PASSING, Sometimes

from chaos.audit import Finding, audit, is_record
from chaos.place import KEYS, Place, write_sources
from chaos.players import Cast, Failed
from chaos.plots import PLOTS, Reference
from chaos.s3 import objects, versioned_bucket, versions

SHARE = 0.05
"""Share of the requests to S3 that have a fault."""
AT_ONCE = 5
SCENES = (
    ("interrupted", "local"),
    ("undisturbed", "s3"),
    ("racing", "local"),
    ("interrupted", "s3"),
    ("undisturbed", "s3"),
    ("watched", "local"),
    ("damaged", "local"),
    ("racing", "s3"),
    ("interrupted", "local"),
    ("watched", "s3"),
)
"""Plot and store of ten lives; those that follow are the same again, with other seeds."""


@dataclass(frozen=True)
class Life:
    """One life, decided by its seed."""

    seed: int
    plot: str
    store: str


@dataclass(frozen=True)
class Ended:
    """What was done to a life, and what the audit found."""

    life: Life
    faults: Counter[str]
    runs: int
    """That ended with a record."""
    findings: list[Finding]
    seconds: float

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        found = "; ".join(f"{finding.kind}: {finding.where}: {finding.what}" for finding in self.findings)
        life = self.life
        return f"{life.seed:3} {life.plot} on {life.store} {self.seconds:.1f} s [{faults}] {found or 'nothing found'}"


def lives(count: int, scenes: Sequence[tuple[str, str]] = SCENES, first: int = 0) -> list[Life]:
    """Return this number of lives, with seeds from `first` on."""
    return [Life(first + number, *scene) for number, scene in enumerate(islice(cycle(scenes), count))]


class Theatre:
    """The parts that all lives share: a folder, an S3 server, the images, and the results of undisturbed runs."""

    def __init__(self, folder: Path, server: str) -> None:
        self._folder, self._server = folder, server
        write_sources(folder)
        place = self._place("reference", str(folder / "reference" / "store"))
        self._reference = Reference(Cast(place, Random(0), None, server))

    def live(self, chosen: Sequence[Life], broken: str | None = None) -> Iterable[Ended]:
        """Yield lives in their order, as they end; `broken` names a deliberate bug."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from pool.map(partial(self._live, broken=broken), chosen)

    def _place(self, name: str, url: str) -> Place:
        (self._folder / name).mkdir()
        return Place(self._folder / name, url)

    def _live(self, life: Life, broken: str | None) -> Ended:
        started, name = time.monotonic(), f"{life.seed}-{life.plot}-{life.store}-{broken}"
        local = life.store == "local"
        bucket = None if local else versioned_bucket(self._server)
        place = self._place(name, str(self._folder / name / "store") if local else f"s3://{bucket}/some/prefix")
        faults = Sometimes(PASSING, SHARE, life.seed)
        proxy: AbstractContextManager[str | None] = nullcontext() if local else faulty(self._server, faults)
        with proxy as endpoint:
            cast = Cast(place._replace(endpoint=endpoint), Random(life.seed), broken, self._server)
            runs, findings = self._play(life, cast, bucket)
        return Ended(life, cast.faults + faults.struck, runs, findings, time.monotonic() - started)

    def _play(self, life: Life, cast: Cast, bucket: str | None) -> tuple[int, list[Finding]]:
        try:
            expected = PLOTS[life.plot](cast, self._reference)
        except Failed as failed:
            return 0, [Finding("lost", life.plot, str(failed))]
        champions = versions(self._server, bucket, f"some/prefix/{KEYS.champion}") if bucket else []
        left = objects(cast.store())
        return sum(map(is_record, left)), audit(left, expected, champions)
