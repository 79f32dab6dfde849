"""Run many scenarios, a few at the same time, and audit each at its end."""

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
from chaos.environment import KEYS, Environment, objects, versioned_bucket, versions, write_sources
from chaos.expected import Expected, Finding
from chaos.kinds import KINDS, Reference
from chaos.runner import Failed, Runner
from chaos.sums import is_record
from chaos.years import Done, run_disturbed, run_undisturbed

SHARE = 0.05
"""Share of the requests to S3 that have a fault."""
PARALLEL = 5
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
    """Number of drops. Only the kind `years` has more than two."""


@dataclass(frozen=True)
class Outcome:
    """The faults of a scenario, and the errors that the audit found."""

    scenario: Scenario
    faults: Counter[str]
    runs: int
    """Number of runs with a record."""
    findings: list[Finding]
    team_actions: Counter[str]
    """Actions of the team in a long scenario."""
    seconds: float

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        found = "; ".join(f"{finding.kind}: {finding.where}: {finding.what}" for finding in self.findings)
        one = self.scenario
        text = f"{one.seed:3} {one.kind} on {one.store} {self.seconds:.1f} s [{faults}] {found or 'nothing found'}"
        team_actions = ", ".join(f"{count} {name}" for name, count in sorted(self.team_actions.items()))
        return f"{text} after {team_actions}" if team_actions else text


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
        environment = self._make_environment("reference", str(folder / "reference" / "store"))
        self._undisturbed = cache(self._run_undisturbed)
        self._reference = Reference(Runner(environment, Random(0), None, server))

    def run(self, chosen: Sequence[Scenario], broken: str | None = None) -> Iterable[Outcome]:
        """Yield the results of scenarios in order, as they end. `broken` names a deliberate bug."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            yield from pool.map(partial(self._run_scenario, broken=broken), chosen)

    def _make_environment(self, name: str, url: str) -> Environment:
        (self._folder / name).mkdir()
        return Environment(self._folder / name, url)

    def _run_scenario(self, scenario: Scenario, broken: str | None) -> Outcome:
        started, name = time.monotonic(), f"{scenario.seed}-{scenario.kind}-{scenario.store}-{broken}"
        local = scenario.store == "local"
        bucket = None if local else versioned_bucket(self._server)
        environment = self._make_environment(
            name, str(self._folder / name / "store") if local else f"s3://{bucket}/some/prefix"
        )
        faults = Sometimes(PASSING, SHARE, scenario.seed)
        proxy: AbstractContextManager[str | None] = nullcontext() if local else faulty(self._server, faults)
        with proxy as endpoint:
            runner = Runner(environment._replace(endpoint=endpoint), Random(scenario.seed), broken, self._server)
            team_actions = Counter[str]()
            runs, findings = self._run_and_audit(scenario, runner, bucket, team_actions)
        return Outcome(
            scenario, runner.faults + faults.struck, runs, findings, team_actions, time.monotonic() - started
        )

    def _run_and_audit(
        self, scenario: Scenario, runner: Runner, bucket: str | None, team_actions: Counter[str]
    ) -> tuple[int, list[Finding]]:
        try:
            expected = self._run_kind(scenario, runner, team_actions)
        except Failed as failed:
            return 0, [Finding("lost", scenario.kind, str(failed))]
        champions = versions(self._server, bucket, f"some/prefix/{KEYS.champion}") if bucket else []
        left = objects(runner.store())
        return sum(map(is_record, left)), audit(left, expected, champions)

    def _run_kind(self, scenario: Scenario, runner: Runner, team_actions: Counter[str]) -> Expected:
        """Run a scenario, and return its required result."""
        if scenario.kind != YEARS:
            return KINDS[scenario.kind](runner, self._reference)
        undisturbed = self._undisturbed(scenario.drops, scenario.seed)
        team_actions.update(undisturbed.team_actions)
        return run_disturbed(runner, undisturbed, scenario.drops, scenario.seed)

    def _run_undisturbed(self, drops: int, seed: int) -> Done:
        name = f"{seed}-undisturbed-{drops}"
        environment = self._make_environment(name, str(self._folder / name / "store"))
        return run_undisturbed(Runner(environment, Random(0), None, self._server), drops, seed)
