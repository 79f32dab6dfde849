"""What may keep a task from running here, found before it does."""

from retrain.doctor.examination import examine
from retrain.doctor.finding import Finding

__all__ = ["Finding", "examine"]
