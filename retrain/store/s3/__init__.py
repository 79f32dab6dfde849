"""Objects in an S3 bucket: requests, retries, transfers and errors. Only this package imports boto3 for storage.

`store.S3Store` is an `ObjectStore`; `retrain.store.open_store` opens it.
"""
