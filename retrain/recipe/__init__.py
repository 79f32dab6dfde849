"""The papers, one idea a file: pure torch, no I/O. Imports records, config and errors.

README.md beside this file has a table of equations, functions and settings.
"""
