"""The papers, one idea a file: pure torch, no I/O. Imports records, config and errors.

README.md in this folder has a table of equations, functions and settings.
"""
