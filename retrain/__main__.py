"""Run the command line by `python -m retrain`."""

from retrain.cli import main

main()
