"""Grafana's dashboards as code. `python -m retrain.observe.dashboards FOLDER` writes them as JSON."""
