"""Held-out samples: the requested share, permanently, and never samples that another drop trained on."""

import pytest

from retrain.config.task import Data
from retrain.data.dataset import held_out_shares, split_of

KEYS = [f"cat/{number}" for number in range(20_000)]


def test_only_splits_that_are_missing_are_held_out() -> None:
    data = Data(val_share=0.2, test_share=0.3)
    assert held_out_shares(set(), data) == {"val": 0.2, "test": 0.3}
    assert held_out_shares({"train", "test"}, data) == {"val": 0.2}
    assert held_out_shares({"train", "val", "test"}, data) == {}


def test_holdout_meets_its_shares() -> None:
    splits = [split_of(key, "train", {"val": 0.1, "test": 0.25}) for key in KEYS]
    assert splits.count("val") / len(KEYS) == pytest.approx(0.1, abs=0.007)
    assert splits.count("test") / len(KEYS) == pytest.approx(0.25, abs=0.01)


def test_holdout_takes_samples_only_from_train() -> None:
    assert {split_of(key, "val", {"test": 0.4}) for key in KEYS} == {"val"}
    assert {split_of(key, "test", {"val": 0.4}) for key in KEYS} == {"test"}
    assert {split_of(key, "train", {}) for key in KEYS} == {"train"}


def test_sample_keeps_its_split_for_good() -> None:
    held_out = {key: split_of(key, "train", {"val": 0.1, "test": 0.1}) for key in KEYS[:40]}
    assert {key for key, split in held_out.items() if split == "val"} == {"cat/1", "cat/9", "cat/19", "cat/38"}
    assert {key for key, split in held_out.items() if split == "test"} == {"cat/10", "cat/25"}


def test_held_out_test_samples_stay_out_of_drops_with_own_val() -> None:
    both = {key for key in KEYS if split_of(key, "train", {"val": 0.1, "test": 0.1}) == "test"}
    alone = {key for key in KEYS if split_of(key, "train", {"test": 0.1}) == "test"}
    assert both == alone
