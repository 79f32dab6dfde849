"""Packing of sources into drops (samples, shards, manifests), and reading of datasets (decoding, caches, augmentation).

Other packages use `packing.pack`, `uploads.ingest_drop`, `dataset.make_dataset`, `samples.Samples` and
`augment.Augment`. This package imports store, recipe and the packages below them.
"""
