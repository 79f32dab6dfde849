"""Datasets that are too large to hold: samples are read from the store's shards as they are needed.

`dataset.load_streamed` returns the splits of such a dataset as `Samples`.
"""
