"""The stages of a retraining: plan -> train -> evaluate -> promote -> record.

Plain functions over records and a store. Imports training, data, models, recipe, store, records and config; it knows
nothing of Kubeflow, watchers or the command line.
"""

STAGES = ("plan", "train", "evaluate", "promote", "record")
"""Their order. The stages in one process, the steps of pods and the Kubeflow pipeline all follow it."""
