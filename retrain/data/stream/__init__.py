"""Datasets that are too large for the memory: samples are read from the store's shards when they are needed.

`dataset.load_streamed` returns the splits of such a dataset as `Samples`.
"""
