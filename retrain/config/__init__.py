"""The task file: its settings, loading and validation. Imports only utils and errors.

This file defines the types that all packages share. It imports only `typing`, to keep `retrain --help` fast.
`config.task.Task` is the model of a task file; `config.loading.load_task` reads one.
"""

from typing import Literal, get_args

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Method = Literal["scratch", "naive", "continuous"]
Purpose = Literal["retrain", "calibrate", "trial"]
Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "top5_accuracy"]

METRIC_NAMES: dict[Metric, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "top5_accuracy": "top-5 accuracy",
}
"""The name of each metric in sentences and tables."""
