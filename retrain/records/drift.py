"""The drift of a drop: how far its images are from a champion's held-out images."""

from pydantic import AwareDatetime

from retrain.records.base import Record

LEVEL = 0.01
"""A drop has drifted if the p-value of its distance is below this level."""


class Drift(Record):
    """`drift/<run-id>/<drop-id>.json`: the distance between the features of two sets of images, and its test.

    All images are from val and test, so the champion was not trained on them. The record is written once.
    """

    drop: str
    run_id: str
    """Run id of the champion that computed the features."""
    old: int
    """Number of images from the drops that the champion was trained on."""
    new: int
    """Number of images from this drop."""
    distance: float
    """Squared maximum mean discrepancy of the features, with a Gaussian kernel."""
    chance: float
    """The distance that one in a hundred random permutations of the two sets exceeds."""
    p_value: float
    """Probability of a distance at least this large if both sets come from the same distribution."""
    measured_at: AwareDatetime

    @property
    def has_drifted(self) -> bool:
        """Return whether the p-value of the distance is below `LEVEL`."""
        return self.p_value < LEVEL

    def __str__(self) -> str:
        """Return the result of the test as a sentence."""
        ratio = self.distance / self.chance if self.chance > 0 else 0.0
        cause = ". The cause may be new classes" if self.has_drifted else ""
        return (
            f"drop {self.drop} {'has drifted' if self.has_drifted else 'shows no drift'}: {self.new:,} of its "
            f"validation and test images were compared with {self.old:,} of champion {self.run_id}. They are "
            f"{ratio:.1f} times as far apart as images of one source almost always are (p = {self.p_value:.1%}; below "
            f"{LEVEL:.0%} counts as drift){cause}"
        )
