"""Studies: grids of runs, their runner, statistics, plots, and the catalogue of the papers' tables and figures."""
