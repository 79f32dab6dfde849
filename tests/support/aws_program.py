"""Replace the AWS command line: send the same requests with boto3 to the server at $AWS_ENDPOINT_URL.

It accepts the options that `k8s/examples/aws/apply.sh` uses. It prints the errors of the server.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import boto3
import jmespath

STRUCTURES = {"Attributes", "NotificationConfiguration"}
"""Parameters that boto3 takes as a mapping."""


def parse_value(name: str, text: str) -> Any:
    """Return an option's value. The option gives it as text, JSON, NAME=VALUE or the address of a file."""
    if text.startswith("file://"):
        return Path(text.removeprefix("file://")).read_text()
    if name not in STRUCTURES:
        return text
    return json.loads(text) if text.startswith("{") else dict([text.split("=", 1)])


def parse_options(arguments: list[str]) -> dict[str, Any]:
    """Return the values of options by the parameters' names in the API: `--some-name VALUE` becomes SomeName."""
    names = [re.sub(r"-+(.)", lambda found: found[1].upper(), name) for name in arguments[::2]]
    return {name: parse_value(name, text) for name, text in zip(names, arguments[1::2], strict=True)}


def main(service: str, operation: str, *arguments: str) -> None:
    """Send one request and print the reply, or the part that `--query` selects."""
    options = parse_options(list(arguments))
    query, output = options.pop("Query", None), options.pop("Output", "json")
    reply = getattr(boto3.client("s3" if service == "s3api" else service), operation.replace("-", "_"))(**options)
    reply.pop("ResponseMetadata")
    found = jmespath.search(query, reply) if query else reply
    if output == "text":
        print(found if isinstance(found, str) else "\t".join(found))
    elif found:  # the AWS command line prints nothing for an empty reply
        print(json.dumps(found, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
