"""Learning speed to the letter: every training sample classified after each pass (Verwimp et al., eq. 6)."""

import torch

from retrain.training.evaluate import judged
from retrain.training.setup import Run


def count_exactly(run: Run) -> None:
    """Count each training sample once, as the network classifies it now: not augmented, in evaluation mode.

    Several processes each do all of it, and come to the same counts.
    """
    run.ranks.align(run.network)
    correct, losses = judged(run.network, run.train, run.normalize)
    run.counters.count(torch.arange(len(correct), device=correct.device), correct, losses)
    run.progress.evaluated_images += len(correct)
