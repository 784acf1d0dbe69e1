"""Whoever reads the metrics' page, gets an alert, or looks at the dashboard, sees metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.make_metrics_page import TARGET, page, row
from protocol.metrics import METRICS, ROLES, STATES
from protocol.role_metrics import ASSISTANT_METRICS, BOSS_METRICS
from tests.harness.prometheus import needed

ROOT = Path(__file__).resolve().parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
NAMES = {metric.name for metric in METRICS}
LABELS = {metric.name: {*metric.labels, "instance", "job"} for metric in METRICS} | {"up": {"instance", "job"}}
WORDS = {"and", "or", "unless", "on", "by", "sum", "rate", "increase", "max_over_time"}
VALUES = {"state": STATES, "role": ROLES}


def alerts() -> dict[str, str]:
    """Expression by name."""
    found = re.findall(r"^      - alert: (\w+)\n        expr: (.+)$", (PROMETHEUS / "alerts.yml").read_text(), re.M)
    return dict(found)


def dashboard() -> dict[str, Any]:
    loaded = json.loads(DASHBOARD.read_text())
    assert isinstance(loaded, dict)
    return loaded


def queries() -> Iterator[tuple[str, str]]:
    """Expression and legend of each curve of the dashboard."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]


def metrics_in(expression: str) -> set[str]:
    """All names in an expression that are no word of the language; fails where a selector names an unknown label."""
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", expression):
        for label, value in re.findall(r'(\w+)\s*[=!]~?\s*"([^"]*)"', selector):
            assert label in LABELS[name], f"{name} has no label {label}"
            assert label not in VALUES or value in VALUES[label], f"{label} is never {value}"
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(on|by) \([^)]*\)", " ", expression)
    return set(re.findall(r"\b[a-zA-Z_]\w*", bare)) - WORDS


def test_the_page_of_the_metrics_is_current() -> None:
    assert TARGET.read_text() == page(), "run python -m docs.make_metrics_page"


@pytest.mark.parametrize("metric", [*METRICS, *BOSS_METRICS, *ASSISTANT_METRICS], ids=lambda m: m.name)
def test_every_metric_is_on_the_page_with_its_meaning(metric: Any) -> None:
    assert row(metric) in page().splitlines()
    assert metric.name in row(metric) and metric.help in row(metric) and row(metric).count("|") == 6


def test_the_check_finds_metrics_and_labels_that_do_not_exist() -> None:
    assert metrics_in('rate(autoassist_no[1m]) > 2 and on (job) up{job="x"} == 1') == {"autoassist_no", "up"}
    with pytest.raises(AssertionError, match="autoassist_peers has no label peer"):
        metrics_in('autoassist_peers{peer="boss-0"}')
    with pytest.raises(AssertionError, match="state is never over"):
        metrics_in('autoassist_run_state{state="over"}')


def test_there_is_an_alert_for_what_must_not_go_unseen() -> None:
    assert {"BossWaits", "AssistantSilent", "StalenessNearBound", "ValuesDropped", "BrokerDown"} <= set(alerts())
    assert len(alerts()) == (PROMETHEUS / "alerts.yml").read_text().count("- alert:")


@pytest.mark.parametrize("name", alerts())
def test_alerts_name_only_metrics_that_exist(name: str) -> None:
    found = metrics_in(alerts()[name])
    assert found and found <= NAMES | {"up"}


def test_the_labels_that_alerts_speak_of_exist() -> None:
    spoken = set(re.findall(r"\$labels\.(\w+)", (PROMETHEUS / "alerts.yml").read_text()))
    assert spoken <= set().union(*LABELS.values())


def test_options_and_metrics_that_alerts_advise_exist() -> None:
    advice = "".join(re.findall(r"description: (.+)", (PROMETHEUS / "alerts.yml").read_text()))
    settings = (ROOT / "protocol" / "settings.py").read_text()
    for option in re.findall(r"--([a-z-]+)", advice):
        assert re.search(rf"^    {option.replace('-', '_')}: ", settings, re.M), option
    assert set(re.findall(r"autoassist_\w+", advice)) <= NAMES


@pytest.mark.parametrize("expression", sorted({expression for expression, _ in queries()}))
def test_the_dashboard_queries_only_metrics_that_exist(expression: str) -> None:
    found = metrics_in(expression)
    assert found and found <= NAMES


def test_legends_name_labels_that_their_metrics_have() -> None:
    for expression, legend in queries():
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            assert all(label in LABELS[name] for name in metrics_in(expression)), legend


def test_rates_are_of_counters_and_other_curves_of_gauges() -> None:
    kinds = {metric.name: metric.kind for metric in METRICS}
    for expression in [*alerts().values(), *(expression for expression, _ in queries())]:
        rated = set(re.findall(r"(?:rate|increase)\((\w+)", expression))
        assert all(
            kinds.get(name, "gauge") == ("counter" if name in rated else "gauge") for name in metrics_in(expression)
        )


def test_the_dashboard_can_be_read_by_grafana() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [(p["gridPos"]["x"] + dx, p["gridPos"]["y"] + dy) for p in panels for dx, dy in cells(p["gridPos"])]
    assert len(set(taken)) == len(taken) and max(x for x, _ in taken) < 24, "panels lie on each other"
    variables = {variable["name"] for variable in dashboard()["templating"]["list"]}
    text = DASHBOARD.read_text()
    assert set(re.findall(r"\$\{?(\w+)", text)) - {"__all"} <= variables
    assert "label_values(autoassist_run_info, instance)" in text and "autoassist_run_info" in NAMES


def cells(grid: dict[str, int]) -> list[tuple[int, int]]:
    return [(dx, dy) for dx in range(grid["w"]) for dy in range(grid["h"])]


def test_the_configuration_scrapes_the_port_that_the_page_names() -> None:
    port = re.search(r"--http-port (\d{4})", page())
    assert port is not None and f'"broker:{port.group(1)}"' in (PROMETHEUS / "prometheus.yml").read_text()
    assert "alerts.yml" in (PROMETHEUS / "prometheus.yml").read_text()


PROMTOOL = [
    *(("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")),
]


@pytest.mark.parametrize("words", PROMTOOL, ids=" ".join)
def test_promtool_accepts_the_configuration_and_sees_each_alert_fire(words: tuple[str, ...]) -> None:
    command = [needed("promtool"), *words]
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tried_firing_and_silent() -> None:
    tried = (PROMETHEUS / "alerts_test.yml").read_text()
    for name in alerts():
        assert f"alertname: {name}}}" in tried and f'alertname="{name}"' in tried, name
