"""Samples whose labels are likely wrong, as `retrain data review` finds them."""

from retrain.config import Split
from retrain.config.fields import Share
from retrain.records.base import Record


class Suspect(Record):
    """A sample whose label may be wrong, and the class that the champion proposes instead."""

    drop: str
    key: str
    content: str
    """Digest of what it shows, in hex."""
    split: Split
    class_name: str
    """Its class."""
    proposed: str
    """The likeliest other class, as the champion has it."""
    probability: Share
    """Of the proposed class."""
    own_probability: Share
    """Of its own class."""
    why: str
    thumbnail: str
    """A small PNG of what the network saw, in base64."""
