"""Drops, shards and batches."""
