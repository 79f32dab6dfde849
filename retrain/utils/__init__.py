"""Helpers that know nothing of this project: subprocesses, parallel maps, files, text. Imports `errors` alone."""
