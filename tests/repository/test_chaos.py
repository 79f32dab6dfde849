"""`make chaos` in short: it finds nothing in correct runs, and every deliberate bug."""

import pytest
from chaos.breaks import BREAKS
from chaos.lives import Life, Theatre

FINDING = {
    "digest": ({"lost"}, [Life(seed, "damaged", "local") for seed in range(1)]),
    "etag": ({"forked", "lost"}, [Life(seed, "racing", "local") for seed in range(1)]),
    "sampler": ({"lost"}, [Life(seed, "interrupted", "local") for seed in range(2)]),
}
"""As what a bug shows, and in which lives. Where a promotion is overwritten, its savings are lost with it."""


@pytest.fixture(scope="module")
def theatre(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Theatre:
    """Return the store of undisturbed runs, to compare with."""
    return Theatre(tmp_path_factory.mktemp("chaos"), s3)


@pytest.mark.parametrize(
    ("plot", "store"), [("interrupted", "local"), ("racing", "s3"), ("watched", "local"), ("damaged", "local")]
)
def test_nothing_is_lost_torn_or_forked(theatre: Theatre, plot: str, store: str) -> None:
    [ended] = theatre.live([Life(7, plot, store)])
    assert ended.faults.total() > 3
    assert ended.findings == [], ended


@pytest.mark.parametrize("bug", BREAKS)
def test_deliberate_bug_is_found(theatre: Theatre, bug: str) -> None:
    kinds, lives = FINDING[bug]
    found = [finding for ended in theatre.live(lives, bug) for finding in ended.findings]
    assert {finding.kind for finding in found} == kinds
    assert "exit code" not in str(found), "it was not the audit that found it"
