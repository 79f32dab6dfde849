"""Find samples of committed drops by key or content digest. Each drop is searched once for all wanted samples."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Self

import numpy as np

from retrain.data.content import CONTENT_BYTES
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


class SearchedDrop(NamedTuple):
    """A drop, its samples, and the rows of the samples that were searched for.

    `names` maps the text of each selection to the key that it means.
    """

    drop: Drop
    table: SampleTable
    by_key: Mapping[str, Sequence[int]]
    by_content: Mapping[bytes, Sequence[int]]
    names: Mapping[str, str]

    @classmethod
    def of(cls, drop: Drop, table: SampleTable, keys: set[str], contents: set[bytes]) -> Self:
        """Search a drop for keys and content digests."""
        by_key, by_content = defaultdict[str, list[int]](list), defaultdict[bytes, list[int]](list)
        for row, key in enumerate(table.keys):
            if key in keys:
                by_key[key].append(row)
        wanted = np.isin(table.content, np.array(sorted(contents), f"S{CONTENT_BYTES}"))
        for row in np.flatnonzero(wanted).tolist():
            by_content[bytes(table.content[row])].append(row)
        return cls(drop, table, dict(by_key), dict(by_content), {})

    def rows(self, selection: Selection) -> Sequence[int]:
        """Return the rows of the samples that a selection names."""
        if selection.drop not in ("", self.drop.id):
            return ()
        if selection.content:
            return self.by_content.get(parse_content(selection), ())
        return self.by_key.get(self.names.get(selection.key, selection.key), ())


def search_drops(selections: Iterable[Selection], tables: Iterable[tuple[Drop, SampleTable]]) -> list[SearchedDrop]:
    """Search drops for all selected samples. Raises `DropError` for a text that is no digest.

    A selection may contain the path of an image instead of its key. A sample with exactly this text as its key takes
    precedence.
    """
    selections = list(selections)
    possible = {one.key: list(possible_keys(one.key)) for one in selections if not one.content}
    keys = set(chain.from_iterable(possible.values()))
    contents = {parse_content(one) for one in selections if one.content}
    found = [SearchedDrop.of(drop, table, keys, contents) for drop, table in tables]
    present = {key for one in found for key in one.by_key}
    names = {text: next((key for key in each if key in present), text) for text, each in possible.items()}
    return [one._replace(names=names) for one in found]


def parse_content(selection: Selection) -> bytes:
    """Return a content digest as tables store it, without zeros at its end. Raises `DropError` if it is no digest."""
    try:
        content = bytes.fromhex(selection.content)
    except ValueError as error:
        raise DropError(
            f"{selection.where}: {selection.content!r} is not a content digest in hex: copy the digest from the table "
            "of `retrain data review --csv`"
        ) from error
    return content.rstrip(b"\0")
