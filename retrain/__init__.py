"""Keep image classifiers up to date for a fraction of the compute.

Packages import downwards only; docs/architecture.md lists them in their order.
"""

__version__ = "0.1.0"
