"""Show tasks and runs to people: metrics, exporter, report and dashboards.

All numbers come from the ledger, except the numbers of active trainings. Every metric has its name in `names`.
`observers.make_observers` shows a training as it runs. Imports pipeline and the packages below it.
"""
