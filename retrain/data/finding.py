"""Find samples of committed drops by key or content digest. Each drop is searched once for all wanted samples."""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

from retrain.data.sample_keys import possible_keys
from retrain.data.sample_table import SampleTable
from retrain.errors import DropError
from retrain.records import Drop


class Selection(NamedTuple):
    """A sample to find, given by the digest of its content in hex, or by its key (and drop).

    `where` is the line or file that names the sample.
    """

    where: str
    drop: str
    key: str
    content: str
    is_image: bool = False
    """Whether `content` is the digest of an image file's content."""


class Search:
    """The samples that some selections name, in all drops. Raises `DropError` for a text that is no digest.

    A selection may contain the path of an image instead of its key. A sample with exactly this text as its key takes
    precedence.
    """

    def __init__(self, selections: Iterable[Selection], tables: Iterable[tuple[Drop, SampleTable]]) -> None:
        selections = list(selections)
        possible = {one.key: list(possible_keys(one.key)) for one in selections if not one.content}
        keys = set(chain.from_iterable(possible.values()))
        contents = {parse_content(one) for one in selections if one.content}
        self.drops = list(tables)
        """The drops that were searched, and their samples."""
        self._by_key = defaultdict[str, list[tuple[int, int]]](list)
        self._by_content = defaultdict[bytes, list[tuple[int, int]]](list)
        for number, (_, table) in enumerate(self.drops):
            for row, (key, content) in enumerate(zip(table.keys, table.content.tolist(), strict=True)):
                if key in keys:
                    self._by_key[key].append((number, row))
                if content in contents:
                    self._by_content[content].append((number, row))
        self._names = {
            text: next((key for key in each if key in self._by_key), text) for text, each in possible.items()
        }
        """The key that the text of each selection means."""

    def find(self, selection: Selection) -> list[tuple[int, int]]:
        """Return the samples that a selection names: the drop's position in `drops`, and the sample's row."""
        if selection.content:
            found = self._by_content.get(parse_content(selection), [])
        else:
            found = self._by_key.get(self._names[selection.key], [])
        return [(number, row) for number, row in found if selection.drop in ("", self.drops[number][0].id)]


def parse_content(selection: Selection) -> bytes:
    """Return a content digest as tables store it, without zeros at its end. Raises `DropError` if it is no digest."""
    with suppress(ValueError):
        if content := bytes.fromhex(selection.content).rstrip(b"\0"):  # that of bad samples has only zeros
            return content
    raise DropError(
        f"{selection.where}: {selection.content!r} is not a content digest in hex: copy the digest from the table of "
        "`retrain data review --csv`"
    )
