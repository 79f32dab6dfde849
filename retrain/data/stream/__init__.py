"""Datasets that are too large to hold: read from the store's shards as they are needed."""
