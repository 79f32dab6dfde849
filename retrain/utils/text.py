"""Format numbers and sizes, suggest names, hide credentials in addresses, and check the keys of objects."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

_USER = re.compile(r"(?<=//)[^/\s]*@")
_ERRNO = re.compile(r"\[Errno -?\d+\] ([^'\")]+)")
_QUERY = re.compile(r"(\w+://[^\s\"'?#]*)[?#][^\s\"']*")


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun: 1 drop, 2 drops, 3 classes."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def join_names(names: Iterable[str]) -> str:
    """Return names in their order, with commas between them: a, b, "c, d". A name with a comma is in quotes."""
    return ", ".join(f'"{name}"' if "," in name else name for name in names)


NAMED = 5
"""Largest number of names that `name_some` lists."""


def name_some(names: Collection[str]) -> str:
    """Return the first names in alphabetical order, and the number of the others: a, b, c, d, e and 7 more."""
    first = join_names(sorted(names)[:NAMED])
    return f"{first} and {len(names) - NAMED:,} more" if len(names) > NAMED else first


def format_bytes(size: float) -> str:
    """Return a size as text, in powers of 1000: 3.1 MB, 192.0 GB."""
    units = ("kB", "MB", "GB", "TB")
    power = min(len(units), max(1, (len(f"{size:.0f}") - 1) // 3))
    return f"{size / 1000**power:.1f} {units[power - 1]}"


def is_key(key: str) -> bool:
    """Return whether `key` can name an object: a relative path inside the store that does not begin with a dot."""
    return not (key.startswith(".") or "\0" in key or any(part in ("", ".", "..") for part in key.split("/")))


def has_credentials(address: str) -> bool:
    """Return whether an address has a user, a password or a query. A local path has none."""
    return "://" in address and mask_credentials(address) != address


def is_address(path: str) -> bool:
    """Return whether a path looks like an address. It may have one slash, because `Path` turns `//` into `/`."""
    return re.match(r"[a-z][a-z0-9]+:/", path) is not None


def is_web_address(address: str) -> bool:
    """Return whether an address begins with http:// or https://."""
    return address.startswith(("http://", "https://"))


def check_network(address: str) -> str:
    """Return advice for a server that cannot be reached. `address` names the setting or variable of its address."""
    return f"Check {address}, the server, and the network connection to it."


def mask_credentials(text: str) -> str:
    """Return a message with asterisks in place of the users and queries of addresses."""
    return _QUERY.sub(r"\1?***", _USER.sub("***@", text))


def system_cause(error: Exception) -> str:
    """Return the system's reason in an HTTP client's error, such as `Connection refused`, or else the full error."""
    found = _ERRNO.search(str(error))
    return found[1] if found else mask_credentials(str(error))


def did_you_mean(word: str, known: Mapping[str, str]) -> str:
    """Return `; did you mean ...?` with the value of the most similar known word, or an empty text."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"; did you mean {known[nearest[0]]}?" if nearest else ""
