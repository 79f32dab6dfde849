"""The stages of a retraining: plan -> train -> evaluate -> promote -> record.

`stages` has them as plain functions over records and a store; `next_run` plans without torch; an `executor.Executor`
carries out a run. Targets, gate and accounting are pure functions. Imports training, data, models and what is below
them; nothing here knows Kubeflow, watchers or the command line.
"""

STAGES = ("plan", "train", "evaluate", "promote", "record")
"""Their order. The stages in one process, the steps of pods and the Kubeflow pipeline all follow it."""
