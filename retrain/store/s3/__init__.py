"""Objects in an S3 bucket, and the queue that reports them. Only this package imports boto3.

`store.S3Store` is an `ObjectStore`, and `retrain.store.open_store` opens it. `sqs.SqsQueue` receives a bucket's events.
"""
