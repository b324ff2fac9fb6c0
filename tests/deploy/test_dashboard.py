"""The Grafana dashboard: it shows metrics that the engine or Ray exports, and its panels do not overlap."""

import json
import re
from pathlib import Path

from ray.dashboard.modules.metrics import dashboards

FILE = Path(__file__).resolve().parents[2] / "deploy/grafana-dashboard.json"
OURS = {f"ray_endosieve_{name}_total" for name in ("frames", "rejected", "parts", "busy_seconds", "waiting_seconds")}


def names_in_ray() -> set[str]:
    """Every word of Ray's own dashboards."""
    files = Path(dashboards.__file__).parent.glob("*.py")
    return {word for file in files for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))}


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    dashboard = json.loads(FILE.read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    targets = [target for panel in panels for target in panel.get("targets", [])]
    expressions = [target["expr"] for target in targets]
    expressions += [one["definition"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    assert {target["datasource"]["uid"] for target in targets} == {"${datasource}"}
    used: set[str] = set()
    for expression in expressions:
        assert set(re.findall(r"\$(\w+)", expression)) <= variables | {"__rate_interval"}
        used |= set(re.findall(r"\b(?:ray|autoscaler)_\w+", expression))
        for opening, closing in ("()", "[]", "{}"):
            assert expression.count(opening) == expression.count(closing)
    assert {name for name in used if name.startswith("ray_endosieve_")} == OURS
    assert used - OURS <= names_in_ray()
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
