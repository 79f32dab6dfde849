"""The drift of a drop: how far its images are from a champion's test images."""

from datetime import datetime

from retrain.records.base import Record

LEVEL = 0.01
"""A drop has drifted if chance explains its distance with less than this probability."""


class Drift(Record):
    """`drift/<run-id>/<drop-id>.json`: the distance between the features of two samples of images, and its test.

    Both samples were held out, so the champion was trained on neither. Written once.
    """

    drop: str
    run_id: str
    """The champion whose features were compared."""
    old: int
    """Images of the drops that the champion knew."""
    new: int
    """Images of this drop."""
    distance: float
    """Squared maximum mean discrepancy of the features, with a Gaussian kernel."""
    chance: float
    """The distance that one in a hundred random permutations of the two samples exceeds."""
    p_value: float
    """Probability that chance alone gives such a distance."""
    measured_at: datetime

    @property
    def has_drifted(self) -> bool:
        """Return whether chance hardly explains the distance."""
        return self.p_value < LEVEL

    def __str__(self) -> str:
        """Return it as a sentence."""
        ratio = self.distance / self.chance if self.chance > 0 else 0.0
        return (
            f"drop {self.drop} {'has drifted' if self.has_drifted else 'shows no drift'}: the distance of its images "
            f"from the test images of champion {self.run_id} is {ratio:.1f} times the distance that chance "
            f"exceeds in one case of 100 (p = {self.p_value:.3f}; {self.new:,} and {self.old:,} images)"
        )
