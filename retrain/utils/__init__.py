"""General helpers: subprocesses, parallel maps, files, text. Imports only `errors`."""
