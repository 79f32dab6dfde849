"""Grafana's dashboards as code. `python -m retrain.monitoring.dashboards FOLDER` writes them as JSON."""
