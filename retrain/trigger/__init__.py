"""What landed, and what to submit. The store is the truth: events only say sooner where to look."""
