"""Studies: grids of runs, their runner, statistics, plots, and the catalogue of the papers' tables and figures.

Needs the extra `experiments`: `pip install 'retrain-classifiers[experiments]'`. Only the command line imports it.
Studies are files in studies/. `settings.Study` defines their fields.
"""
