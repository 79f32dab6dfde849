"""The task file: its settings, loading and checking. Imports errors alone.

This file holds the words that everything shares, and imports nothing, so that `retrain --help` answers at once.
`config.task.Task` is the whole file; `config.loading.load_task` reads one.
"""

from typing import Literal

Split = Literal["train", "val", "test"]
Method = Literal["scratch", "naive", "continuous"]
Purpose = Literal["retrain", "calibrate", "trial"]
Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "top5_accuracy"]

METRIC_NAMES: dict[Metric, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "top5_accuracy": "top-5 accuracy",
}
"""How a score by each metric is called in sentences and tables."""
