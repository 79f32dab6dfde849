"""Build panels and dashboards as the JSON that Grafana reads."""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUNBOOK = "docs/operations.md"
"""Path of the page with the runbooks. The Helm chart replaces it by `monitoring.runbook`, if that is set."""
GOOD, DOUBTFUL, BAD = "#56B4E9", "#E69F00", "#D55E00"
"""Blue, orange and vermilion from the palette of Okabe & Ito. Colour-blind people can distinguish these colours."""
WIDTH, HEIGHT = 24, 8
"""Width of a dashboard and height of a chart, in cells of Grafana's grid."""


def rising(*steps: tuple[float | None, str]) -> Json:
    """Return thresholds from pairs of threshold and colour. A colour applies to values from its threshold upwards.

    The threshold None means minus infinity.
    """
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


NEUTRAL = rising((None, GOOD))
SIGNED = rising((None, BAD), (0, GOOD))
"""Thresholds that show negative values in the colour `BAD`."""


def _panel(kind: str, title: str, description: str, queries: Mapping[str, str], unit: str, thresholds: Json) -> Json:
    """Return a panel. `queries` maps a legend to its PromQL query."""
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": [
            {"refId": f"{chr(ord('A') + position)}", "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
            for position, (legend, query) in enumerate(queries.items())
        ],
        "fieldConfig": {"defaults": {"unit": unit, "thresholds": thresholds}, "overrides": []},
    }


def stat(
    title: str, description: str, queries: Mapping[str, str], unit: str, thresholds: Json = NEUTRAL, decimals: int = 0
) -> Json:
    """Return a panel of large numbers: the newest values."""
    panel = _panel("stat", title, description, queries, unit, thresholds)
    for target in panel["targets"]:
        target["instant"] = True
    panel["fieldConfig"]["defaults"] |= {"decimals": decimals, "color": {"mode": "thresholds"}}
    panel["options"] = {
        "reduceOptions": {"calcs": ["lastNotNull"]},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "value_and_name",
    }
    return panel


def bars(title: str, description: str, queries: Mapping[str, str], unit: str, thresholds: Json = NEUTRAL) -> Json:
    """Return a panel of horizontal bars: the newest values, one bar for each series."""
    panel = stat(title, description, queries, unit, thresholds)
    del panel["fieldConfig"]["defaults"]["decimals"]
    options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "horizontal", "displayMode": "basic"}
    return panel | {"type": "bargauge", "options": options}


def series(
    title: str, description: str, queries: Mapping[str, str], unit: str, thresholds: Json = NEUTRAL, steps: bool = True
) -> Json:
    """Return a panel of lines over time. With `steps`, each value is drawn as constant until the next value."""
    panel = _panel("timeseries", title, description, queries, unit, thresholds)
    panel["fieldConfig"]["defaults"] |= {
        "color": {"mode": "palette-classic"},
        "custom": {
            "lineInterpolation": "stepAfter" if steps else "linear",
            "lineWidth": 2,
            "showPoints": "never",
            "thresholdsStyle": {"mode": "off" if thresholds is NEUTRAL else "line"},
        },
    }
    panel["options"] = {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel


def table(title: str, description: str, query: str) -> Json:
    """Return a table with a row for each series and a column for each label."""
    panel = _panel("table", title, description, {"": query}, "none", NEUTRAL)
    panel["targets"][0] |= {"instant": True, "format": "table"}
    hidden = dict.fromkeys(("Time", "Value"), True)
    return panel | {"transformations": [{"id": "organize", "options": {"excludeByName": hidden}}]}


def dashboard(
    uid: str, title: str, description: str, tasks: str, rows: Mapping[str, Sequence[Json]], span: str
) -> Json:
    """Return a dashboard of titled rows. The panels of a row have the same width.

    The dashboard has a menu of the tasks for which the metric `tasks` has values. `span` is the start of the time
    range that the dashboard shows when it is opened, such as "now-90d". The range ends now.
    """
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["retrain"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": span, "to": "now"},
        "links": [{"title": "Runbook", "type": "link", "url": RUNBOOK, "targetBlank": True}],
        "templating": {"list": [_datasource(), _tasks(tasks)]},
        "panels": _lay_out(rows),
    }


def _datasource() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _tasks(metric: str) -> Json:
    return {
        "name": "task",
        "label": "Task",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values({metric}, task)", "refId": "tasks"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def _lay_out(rows: Mapping[str, Sequence[Json]]) -> list[Json]:
    numbers, placed, top = count(1), [], 0
    for title, panels in rows.items():
        head = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        placed.append({"id": next(numbers), "type": "row", "title": title, "collapsed": False, "gridPos": head})
        width, height = WIDTH // len(panels), HEIGHT // 2 if all(p["type"] == "stat" for p in panels) else HEIGHT
        for column, panel in enumerate(panels):
            place = {"h": height, "w": width, "x": column * width, "y": top + 1}
            placed.append({"id": next(numbers), **panel, "gridPos": place})
        top += height + 1
    return placed
