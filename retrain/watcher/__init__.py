"""The watcher: event sources, ingestion of drops, the start of runs, health.

The store is the truth; events only say where to look. `watcher.Watcher` goes round `task_watch.TaskWatch` of each task,
and an `Executor` of the pipeline carries out the runs. Imports monitoring, pipeline and what is below them.
"""
