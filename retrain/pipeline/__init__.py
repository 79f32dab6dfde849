"""The stages of a retraining: plan -> train -> evaluate -> promote -> record.

Plain functions over records and a store. Imports training, data, models, recipe, store, records and config; knows
nothing of Kubeflow, watchers or the command line."""
