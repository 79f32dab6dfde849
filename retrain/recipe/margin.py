"""Active learning by margin: which unlabelled samples to have labelled next (Ash & Adams, figure 9)."""

from torch import Tensor


def margins(logits: Tensor) -> Tensor:
    """Return p₁ - p₂, [N]: how much likelier a sample's likeliest class is than the second; logits: [N, K], K > 1."""
    first, second = logits.softmax(1).topk(2).values.unbind(1)
    return first - second


def smallest_margins(logits: Tensor, count: int) -> Tensor:
    """Return the indices [count] of the samples with the smallest margins, smallest first; ties by index."""
    return margins(logits).argsort(stable=True)[:count]
