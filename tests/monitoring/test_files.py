"""The files of deploy/monitoring: rules by promtool, Grafana's by schemas, the links, and what Compose mounts."""

import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from app.api.metrics import WorkerMetrics, render
from app.cache.stats import Stats
from tests.docs.test_pages import headings
from tests.monitoring.dashboard import DASHBOARD, queries
from tests.monitoring.prometheus import FILES, program

ROOT = FILES.parents[1]
_RULES: dict[str, Any] = yaml.safe_load((FILES / "rules.yml").read_text(encoding="utf-8"))
_ALERTS = [rule for group in _RULES["groups"] for rule in group["rules"] if "alert" in rule]
_SCHEMAS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("grafana_schemas.yml").read_text(encoding="utf-8"))
_METRIC = re.compile(r"\blarder_[a-z_]+")


def test_rules_do_what_their_examples_say() -> None:
    """Every alert fires in its example, and not beside it."""
    done = subprocess.run(
        [program("promtool"), "test", "rules", "rules_test.yml"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    examples = yaml.safe_load(Path(__file__).with_name("rules_test.yml").read_text(encoding="utf-8"))["tests"]
    fired = {case["alertname"] for test in examples for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {alert["alert"] for alert in _ALERTS}


def test_configuration_is_prometheus_own() -> None:
    """Prometheus's own tool accepts the shipped configuration and its rules."""
    done = subprocess.run(
        [program("promtool"), "check", "config", "--syntax-only", str(FILES / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", _ALERTS, ids=lambda alert: str(alert["alert"]))
def test_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    """An alert has a summary, an impact, and a link to the section of its own."""
    assert alert["annotations"].keys() == {"summary", "impact", "runbook"}
    assert alert["labels"]["severity"] in {"page", "ticket"}
    page, _, heading = alert["annotations"]["runbook"].partition("#")
    assert heading == alert["alert"].lower()
    assert heading in headings(ROOT / page)


def test_metrics_that_are_queried_exist() -> None:
    """Rules and dashboard name metrics that the service has."""
    shown = render(WorkerMetrics(caches={"n": Stats(last_audit=0.0, last_proven=0.0)})).decode()
    families = set(re.findall(r"^# TYPE (\w+) ", shown, re.MULTILINE))
    named = set(_METRIC.findall(str(_RULES) + str(queries())))
    assert len(named) > 20
    assert {name.removesuffix("_bucket") for name in named} <= families


def _schema(name: str) -> dict[str, Any]:
    return {**_SCHEMAS[name], "$defs": _SCHEMAS["defs"]}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("dashboard", "dashboards/larder.json"),
        ("datasources", "provisioning/datasources/prometheus.yml"),
        ("providers", "provisioning/dashboards/larder.yml"),
    ],
)
def test_grafana_file_follows_its_schema(name: str, path: str) -> None:
    """Grafana itself is not run; the fields that we use are known and have the right types, and no other is there."""
    document = yaml.safe_load((FILES / "grafana" / path).read_text(encoding="utf-8"))
    errors = [f"{list(error.instance_path)}: {error.message}" for error in jsonschema_rs.iter_errors(_schema(name), document)]
    assert errors == []
    assert list(jsonschema_rs.iter_errors(_schema(name), {**document, "unknown": 1})) != []


def test_panels_stand_side_by_side() -> None:
    """Panels have ids of their own, do not overlap, and ask the data source that is provisioned."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    sources = yaml.safe_load((FILES / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    [source] = sources["datasources"]
    assert {panel["datasource"]["uid"] for panel in panels if "datasource" in panel} == {source["uid"]}


def test_compose_mounts_what_is_there() -> None:
    """The profile's services mount files that exist, where they are expected, and are published on loopback only."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    watching = {name: service for name, service in services.items() if service.get("profiles") == ["monitoring"]}
    assert watching.keys() == {"prometheus", "grafana"}
    for service in watching.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert "healthcheck" in service
        for volume in service["volumes"]:
            if volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).exists(), volume
    mounted = " ".join(volume for service in watching.values() for volume in service["volumes"])
    configuration = (FILES / "prometheus.yml").read_text(encoding="utf-8")
    provider = (FILES / "grafana/provisioning/dashboards/larder.yml").read_text(encoding="utf-8")
    for place, text in (("/run/larder/metrics-key", configuration), ("/etc/grafana/dashboards", provider)):
        assert place in text
        assert f":{place}:ro" in mounted
    assert "larder" in services
    assert "larder:8000" in configuration
