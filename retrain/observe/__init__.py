"""What people watch: progress, metrics and reports. Everything but progress comes from the ledger."""
