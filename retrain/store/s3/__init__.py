"""Objects in an S3 bucket: requests, retries, transfers and errors. The only place that imports boto3 for storage."""
