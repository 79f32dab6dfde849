"""The papers, one idea a file: pure torch, no I/O. See README.md beside this file for equation <-> function."""
