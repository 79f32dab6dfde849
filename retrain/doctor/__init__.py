"""What may keep a task from running here, found before it does."""

from retrain.doctor.checks import Finding
from retrain.doctor.examination import examine

__all__ = ["Finding", "examine"]
