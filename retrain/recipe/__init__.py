"""The papers' methods, one idea in each file, in pure torch without I/O. Imports records, config and errors.

README.md in this folder has a table of equations, functions and settings.
"""
