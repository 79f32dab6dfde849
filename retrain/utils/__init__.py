"""General helpers: subprocesses, parallel maps, files, text, times and histograms. Imports only `errors`."""
