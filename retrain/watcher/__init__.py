"""The watcher: event sources, ingestion of drops, health. The store is the truth; events only say where to look."""
