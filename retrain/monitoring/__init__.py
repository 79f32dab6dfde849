"""Show tasks and runs to people: metrics, exporter, report and dashboards.

The numbers of ended runs come only from the ledger. `names` lists all metrics. `observers.make_observers` shows an
active training. This package imports pipeline and the packages below it.
"""
