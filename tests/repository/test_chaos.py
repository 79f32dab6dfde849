"""A short version of `make chaos`. It reports nothing for correct code, and finds each deliberate bug."""

import pytest
from chaos.breaks import BREAKS
from chaos.scenarios import Harness, Scenario

YEARS = Scenario(0, "years", "local", drops=6)
REFUSED_AND_ERASED = Scenario(207, "years", "local", drops=4)
"""A scenario in which the gate refuses a candidate, and samples are erased."""
FINDING = {
    "credit": ({"lost"}, [REFUSED_AND_ERASED]),
    "digest": ({"lost"}, [Scenario(seed, "damaged", "local") for seed in range(1)]),
    "erasure": ({"lost"}, [REFUSED_AND_ERASED]),
    "etag": ({"forked", "lost"}, [Scenario(seed, "racing", "local") for seed in range(1)]),
    "sampler": ({"lost"}, [Scenario(seed, "interrupted", "local") for seed in range(2)]),
}
"""Kinds of findings for each bug, and scenarios that reveal it. The bug `etag` overwrites
promotions, and this also changes the savings."""


@pytest.fixture(scope="module")
def harness(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """Return a harness. It compares stores with the stores of runs without faults."""
    return Harness(tmp_path_factory.mktemp("chaos"), s3)


@pytest.mark.parametrize(
    ("kind", "store"), [("interrupted", "local"), ("racing", "s3"), ("watched", "local"), ("damaged", "local")]
)
def test_audit_finds_no_damage_after_faults(harness: Harness, kind: str, store: str) -> None:
    [ended] = harness.run([Scenario(7, kind, store)])
    assert ended.faults.total() > 3
    assert ended.findings == [], ended


def test_ledger_store_and_history_agree_after_long_scenario(harness: Harness) -> None:
    [ended] = harness.run([YEARS])
    assert ended.faults.total() > 3
    assert ended.team_actions.keys() >= {"approve", "erasure", "manual approval", "rollback", "watcher"}
    assert ended.findings == [], ended


@pytest.mark.parametrize("bug", BREAKS)
def test_deliberate_bug_is_found(harness: Harness, bug: str) -> None:
    kinds, scenarios = FINDING[bug]
    found = [finding for ended in harness.run(scenarios, bug) for finding in ended.findings]
    assert {finding.kind for finding in found} == kinds
    assert "exit code" not in str(found), "the audit must find the bug"
