"""Keys of samples: the path of an image without its extension, with unusual characters percent-encoded."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from retrain.data.images import EXTENSIONS
from retrain.records.drop import compose

PLAIN = re.compile(r"[A-Za-z0-9~-][A-Za-z0-9~_-]*")
"""Parts of keys that need no escape."""


def escape(text: str) -> str:
    """Return a part of a key: composed (NFC), percent-encoded, without dots and without a leading underscore."""
    if PLAIN.fullmatch(text):
        return text
    escaped = quote(compose(text), safe="").replace(".", "%2E")
    return "%5F" + escaped[1:] if escaped.startswith("_") else escaped


def escape_path(path: str) -> str:
    """Return the key of a path that has no extension."""
    return "/".join(map(escape, path.split("/")))


def readable_key(key: str) -> str:
    """Return the path, or the id in a table, from which a key was made. Return a producer's key unchanged.

    `possible_keys` finds the key for such a text. A text that cannot be printed stays encoded.
    """
    text = unquote(key)
    return text if text.isprintable() and key in (escape_path(text), escape(text)) else key


def name_in_drop(name: str, drop_id: str) -> str:
    """Return the name of another drop's sample in reports. Erasures search the reports for this text."""
    return f"{name} of drop {drop_id}"


def possible_keys(text: str) -> Iterator[str]:
    """Yield the keys that a person's text may mean.

    The text is a key, an image's path with or without its extension, or an id in a table of labels.
    """
    yield text
    yield escape_path(text)
    yield escape(text)
    path = PurePosixPath(text)
    if path.suffix[1:].lower() in EXTENSIONS:
        yield escape_path(str(path.with_suffix("")))
