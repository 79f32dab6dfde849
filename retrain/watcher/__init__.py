"""Watch tasks: receive events, ingest drops, start runs, report health.

The store is the source of truth. Events only say where to look first. `watcher.Watcher` calls the
`task_watch.TaskWatch` of each task in a loop, and an `Executor` of the pipeline carries out the runs. This package
imports monitoring, pipeline and the packages below them.
"""
