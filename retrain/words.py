"""The words that everything shares, command line included: no imports, so that `retrain --help` answers at once."""

from typing import Literal

Split = Literal["train", "val", "test"]
Method = Literal["scratch", "naive", "continuous"]
Purpose = Literal["retrain", "calibrate", "trial"]


def count(number: int, noun: str) -> str:
    """Return a number of things: 1 drop, 2 drops, 3 classes."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
