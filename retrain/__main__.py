"""Start the command line for `python -m retrain`."""

from retrain.cli import main

main()
