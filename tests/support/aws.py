"""The environment in which boto3 connects only to a server on loopback."""

AWS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
    "MOTO_S3_DEFAULT_MAX_KEYS": "100",  # keys in a page of a listing; AWS's 1000 would need slow tests
}
