"""The watcher: event sources, ingestion of drops, claims, health. Events only say where in the store to look."""
