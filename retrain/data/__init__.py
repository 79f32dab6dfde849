"""Data in: sources, samples, shards and manifests. Data out: datasets, decoding, caches and augmentation.

Others use `packing.pack`, `uploads.ingest_drop`, `dataset.make_dataset`, `samples.Samples` and `augment.Augment`.
Imports store, recipe and the packages below them.
"""
