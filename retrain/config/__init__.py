"""The task file: its settings, loading and checking. Imports errors alone.

This file holds the words that everything shares, and imports nothing, so that `retrain --help` answers at once.
`config.task.Task` is the whole file; `config.loading.load_task` reads one.
"""

from typing import Literal

Split = Literal["train", "val", "test"]
Method = Literal["scratch", "naive", "continuous"]
Purpose = Literal["retrain", "calibrate", "trial"]
