"""Keys of samples as people read and write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.data.sample_keys import escape, escape_path, possible_keys, readable_key

PARTS = st.text(min_size=1).filter(lambda text: "/" not in text)


@pytest.mark.parametrize(
    ("key", "readable"),
    [
        ("cat/0017", "cat/0017"),
        ("%C3%A9toile%20filante/x%2Ey", "étoile filante/x.y"),
        ("%5F_meta__/1", "__meta__/1"),
        ("week%2F7", "week/7"),
        ("a/100%25", "a/100%"),
        ("producers.own%20/1", "producers.own%20/1"),
        ("a/%1B%5B31m", "a/%1B%5B31m"),
        ("a/%FF", "a/%FF"),
    ],
)
def test_readable_key_is_the_path_that_was_packed(key: str, readable: str) -> None:
    assert readable_key(key) == readable
    assert key in possible_keys(readable)


@given(st.lists(PARTS, min_size=1, max_size=3).map("/".join))
def test_every_path_and_id_leads_to_its_key(path: str) -> None:
    for key in (escape_path(path), escape(path)):
        assert key in possible_keys(path)
        assert key in possible_keys(readable_key(key))


@pytest.mark.parametrize("path", ["a b/x.y.png", "a b/x.y.JPG", "a b/x.y", "a%20b/x%2Ey"])
def test_extension_may_stay(path: str) -> None:
    assert "a%20b/x%2Ey" in possible_keys(path)
