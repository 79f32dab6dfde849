"""One of the processes that train together: `torchrun -m pipelines.worker STEP TASK RUN DEVICE`.

The first does the step as if it were alone; the others take part in its trainings.
"""

import signal
import sys

from pipelines import steps
from retrain.training.preemption import leave

STEPS = {"train": steps.train_here, "complete": steps.complete}


def main() -> None:
    """Do the step that the command line names."""
    signal.signal(signal.SIGTERM, leave)
    step, *arguments = sys.argv[1:]
    STEPS[step](*arguments)


if __name__ == "__main__":
    main()
