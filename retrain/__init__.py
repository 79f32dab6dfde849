"""Keeps image classifiers up to date for a fraction of the compute."""

__version__ = "0.1.0"
