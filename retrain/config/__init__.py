"""The words that everything shares, command line included: no imports, so that `retrain --help` answers at once."""

from typing import Literal

Split = Literal["train", "val", "test"]
Method = Literal["scratch", "naive", "continuous"]
Purpose = Literal["retrain", "calibrate", "trial"]
