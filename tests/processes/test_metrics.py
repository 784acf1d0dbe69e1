"""What Prometheus reads of a run."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.processes.roles import DEADLINE_S, HERE, Statistics, roles
from tests.processes.test_roles import free_port

pytestmark = pytest.mark.processes
ROOT = HERE.parents[1]
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


def scrape(url: str) -> dict[str, float]:
    """The samples' sums over their labels, by name."""
    with urllib.request.urlopen(url, timeout=30.0) as response:
        families = text_string_to_metric_families(response.read().decode())
    found: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples):
        found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_a_broker_serves_the_figures_of_its_run_until_it_ends(tmp_path: Path) -> None:
    """The same ones as on the statistics socket, where a Boss is at work; SIGTERM ends the port with the broker."""
    with roles() as start:
        broker = start("broker", "--run-dir", str(tmp_path), "--port", "0", "--announce", "--http-port", "0")
        addresses = json.loads(broker.wait_for('{"address"'))
        boss = start("boss", HEAVY, "--broker", addresses["address"], "--epochs", "40", "--policy", "uniform")
        statistics = Statistics(addresses["statistics"])
        seen = statistics.wait_until(lambda s: s.trained_steps > 0 and any(p.rss_bytes for p in s.peers), "training")
        statistics.close()
        found = scrape(f"{addresses['http']}/metrics")
        assert found["autoassist_boss_steps_total"] >= seen.trained_steps > 0
        assert found["autoassist_boss_instances_total"] >= seen.instances_trained > 0
        assert found["autoassist_peer_resident_memory_bytes"] > 0
        assert found["autoassist_run_dataset_instances"] == seen.n
        with urllib.request.urlopen(f"{addresses['http']}/healthz", timeout=30.0) as response:
            assert response.status == 200
        broker.terminate()
        assert boss.end() == 0, boss.text
        assert broker.end() == 0, broker.text
        with pytest.raises(urllib.error.URLError, match="refused"):
            scrape(f"{addresses['http']}/metrics")


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """A Prometheus that scrapes ``target`` with our configuration, every half second; gives what asks it."""
    for name in ("prometheus.yml", "alerts.yml"):
        text = (ROOT / "deploy" / "prometheus" / name).read_text()
        (folder / name).write_text(text.replace("broker:9155", target).replace("_interval: 5s", "_interval: 500ms"))
    port = free_port()
    words = ["prometheus", "--config.file", str(folder / "prometheus.yml"), "--storage.tsdb.path", str(folder / "db")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*words, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)

    def ask(expression: str) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}", timeout=30.0) as response:
            answer = json.loads(response.read())
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    try:
        yield ask
    finally:
        process.kill()
        process.wait(DEADLINE_S)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_a_real_prometheus_answers_each_query_of_the_dashboard(tmp_path: Path) -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    expressions = {target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}
    unanswered = {expression.replace("$instance", ".*") for expression in expressions}
    with roles() as start:
        broker = start("broker", "--run-dir", str(tmp_path / "run"), "--port", "0", "--announce", "--http-port", "0")
        addresses = json.loads(broker.wait_for('{"address"'))
        start("assistant", HEAVY, "--broker", addresses["address"], "--name", "assistant-0")
        start("boss", HEAVY, "--broker", addresses["address"], "--epochs", "1000")
        with prometheus(tmp_path, urllib.parse.urlsplit(addresses["http"]).netloc) as ask:
            deadline = time.monotonic() + DEADLINE_S
            while any("refused" not in e for e in unanswered) and time.monotonic() < deadline:
                with suppress(urllib.error.URLError):  # it does not listen yet
                    unanswered = {expression for expression in unanswered if not ask(expression)}
                threading.Event().wait(0.2)
            # Nobody sends anything here that would have to be refused.
            assert all("refused" in expression for expression in unanswered), unanswered
            assert not ask('ALERTS{alertname="BrokerDown"}')
