"""The methods of the papers (README.md in this folder), one idea in each file, in pure torch without I/O.

README.md has a table of equations, functions and settings. This package imports records, config and errors.
"""
