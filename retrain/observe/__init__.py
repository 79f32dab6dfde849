"""What people watch: metrics and reports, all from the ledger."""
