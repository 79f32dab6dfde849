"""Studies: methods compared over seeds and splits, with the very code that retrains in production."""
