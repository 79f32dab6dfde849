"""Which split a sample belongs to, where its producer brought no val or no test split."""

import hashlib
from collections.abc import Collection, Mapping

from retrain.config import Data
from retrain.words import Split


def held_out_shares(present: Collection[Split], data: Data) -> dict[Split, float]:
    """Return the share of train to hold out for each split that is not `present`."""
    shares: dict[Split, float] = {"val": data.val_share, "test": data.test_share}
    return {split: share for split, share in shares.items() if split not in present}


def split_of(key: str, split: Split, held_out: Mapping[Split, float]) -> Split:
    """Return the split of a sample that lies in a shard of `split`: some train samples are held out for another.

    The key's SHA-256 places it in [0, 1): val is the low end, test the high end. So a sample that comes again in a
    later drop never moves between training and the held-out splits, whichever of these that drop brings.
    """
    position = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48
    if split == "train" and position < held_out.get("val", 0.0):
        return "val"
    if split == "train" and position >= 1 - held_out.get("test", 0.0):
        return "test"
    return split
