"""What a class may be called."""

import unicodedata

from retrain.errors import DropError

LONGEST = 255
"""Characters in a class's name."""


def class_name(text: str) -> str:
    """Return a class's name as it is kept. Raises `DropError` if it is none.

    Space around it is dropped, such as the line's end that `echo` writes. One name for what reads the same: some
    systems write é as one character, others as two.
    """
    name = unicodedata.normalize("NFC", text.strip())
    if not name:
        raise DropError("its class has no name")
    if len(name) > LONGEST:
        raise DropError(f"its class's name has {len(name):,} characters; at most {LONGEST} are allowed")
    if not {"Cc", "Cs"}.isdisjoint(map(unicodedata.category, name)):
        raise DropError(f"its class's name {name!r} holds control characters, or is not text in UTF-8")
    return name
