"""What people watch: metrics, exporter, report and dashboards. Everything but live progress comes from the ledger."""
