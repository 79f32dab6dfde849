"""Run many scenarios, a few at a time, and audit each at its end."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle, islice
from pathlib import Path
from random import Random

from support.faulty_s3 import faulty
from support.store_faults import PASSING, Sometimes

from chaos.audit import audit
from chaos.expected import Expected, Finding
from chaos.kinds import KINDS, Reference
from chaos.place import KEYS, Place, objects, versioned_bucket, versions, write_sources
from chaos.runner import Failed, Runner
from chaos.sums import is_record
from chaos.years import Done, run_disturbed, run_undisturbed

SHARE = 0.05
"""Share of the requests to S3 that have a fault."""
AT_ONCE = 5
"""Number of scenarios that run at the same time."""
STORES = ("local", "s3")
YEARS = "years"
"""The kind of long scenarios."""
PLANNED = (
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
"""Kind and store of ten scenarios. The next ten are the same with other seeds."""


@dataclass(frozen=True)
class Scenario:
    """One scenario. Its seed determines it."""

    seed: int
    kind: str
    store: str
    drops: int = 2
    """Number of drops. Only the kind `years` uses more."""


@dataclass(frozen=True)
class Outcome:
    """The faults of a scenario, and the findings of the audit."""

    scenario: Scenario
    faults: Counter[str]
    runs: int
    """Number of runs with a record."""
    findings: list[Finding]
    deeds: Counter[str]
    """Actions of the team in a long scenario."""
    seconds: float

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        found = "; ".join(f"{finding.kind}: {finding.where}: {finding.what}" for finding in self.findings)
        one = self.scenario
        text = f"{one.seed:3} {one.kind} on {one.store} {self.seconds:.1f} s [{faults}] {found or 'nothing found'}"
        deeds = ", ".join(f"{count} {name}" for name, count in sorted(self.deeds.items()))
        return f"{text} after {deeds}" if deeds else text


def scenarios(count: int, planned: Sequence[tuple[str, str]] = PLANNED, first: int = 0) -> list[Scenario]:
    """Return this number of scenarios, with seeds from `first` on."""
    return [Scenario(first + number, *each) for number, each in enumerate(islice(cycle(planned), count))]


def long_scenarios(count: int, drops: int, first: int = 0) -> list[Scenario]:
    """Return this number of long scenarios, with seeds from `first` on. Even seeds use a folder, odd seeds use S3."""
    return [Scenario(seed, YEARS, STORES[seed % 2], drops) for seed in range(first, first + count)]


class Harness:
    """The parts that all scenarios share: a folder, an S3 server, the images, and the results of undisturbed runs."""

    def __init__(self, folder: Path, server: str) -> None:
        self._folder, self._server = folder, server
        write_sources(folder)
        place = self._place("reference", str(folder / "reference" / "store"))
        self._undisturbed = cache(self._run_undisturbed)
        self._reference = Reference(Runner(place, Random(0), None, server))

    def run(self, chosen: Sequence[Scenario], broken: str | None = None) -> Iterable[Outcome]:
        """Yield the results of scenarios in order, as they end. `broken` names a deliberate bug."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from pool.map(partial(self._run_scenario, broken=broken), chosen)

    def _place(self, name: str, url: str) -> Place:
        (self._folder / name).mkdir()
        return Place(self._folder / name, url)

    def _run_scenario(self, scenario: Scenario, broken: str | None) -> Outcome:
        started, name = time.monotonic(), f"{scenario.seed}-{scenario.kind}-{scenario.store}-{broken}"
        local = scenario.store == "local"
        bucket = None if local else versioned_bucket(self._server)
        place = self._place(name, str(self._folder / name / "store") if local else f"s3://{bucket}/some/prefix")
        faults = Sometimes(PASSING, SHARE, scenario.seed)
        proxy: AbstractContextManager[str | None] = nullcontext() if local else faulty(self._server, faults)
        with proxy as endpoint:
            runner = Runner(place._replace(endpoint=endpoint), Random(scenario.seed), broken, self._server)
            deeds = Counter[str]()
            runs, findings = self._run_and_audit(scenario, runner, bucket, deeds)
        return Outcome(scenario, runner.faults + faults.struck, runs, findings, deeds, time.monotonic() - started)

    def _run_and_audit(
        self, scenario: Scenario, runner: Runner, bucket: str | None, deeds: Counter[str]
    ) -> tuple[int, list[Finding]]:
        try:
            expected = self._run_kind(scenario, runner, deeds)
        except Failed as failed:
            return 0, [Finding("lost", scenario.kind, str(failed))]
        champions = versions(self._server, bucket, f"some/prefix/{KEYS.champion}") if bucket else []
        left = objects(runner.store())
        return sum(map(is_record, left)), audit(left, expected, champions)

    def _run_kind(self, scenario: Scenario, runner: Runner, deeds: Counter[str]) -> Expected:
        """Run a scenario, and return its required result."""
        if scenario.kind != YEARS:
            return KINDS[scenario.kind](runner, self._reference)
        undisturbed = self._undisturbed(scenario.drops, scenario.seed)
        deeds.update(undisturbed.deeds)
        return run_disturbed(runner, undisturbed, scenario.drops, scenario.seed)

    def _run_undisturbed(self, drops: int, seed: int) -> Done:
        name = f"{seed}-undisturbed-{drops}"
        place = self._place(name, str(self._folder / name / "store"))
        return run_undisturbed(Runner(place, Random(0), None, self._server), drops, seed)
