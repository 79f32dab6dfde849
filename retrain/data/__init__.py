"""Data in: sources, samples, shards and manifests. Data out: datasets, decoding, caches and augmentation.

Others use `packing.pack`, `uploads.ingest_drop`, `dataset.make_dataset`, `samples.Samples` and `augment.Augment`.
Imports store, records, recipe, config, utils and errors.
"""
