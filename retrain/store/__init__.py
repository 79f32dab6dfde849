"""Where drops, runs, the ledger and the champion are kept."""
