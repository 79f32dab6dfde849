"""The stages of a retraining: plan -> train -> evaluate -> promote -> record.

`stages` implements them as functions over records and a store; `next_run` plans without torch; an `executor.Executor`
executes a run. Targets, gate and accounting are pure functions. This package imports training, data, models and the
packages below them. It does not import Kubeflow, the watcher or the command line.
"""

STAGES = ("plan", "train", "evaluate", "promote", "record")
"""The stages in their order. A run in one process, the steps in pods and the Kubeflow pipeline all use this order."""
