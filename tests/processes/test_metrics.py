"""What Prometheus reads of a run."""

from __future__ import annotations

import json
import re
import socket
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

from protocol.report import read_report
from tests.harness.prometheus import needed
from tests.processes.roles import DEADLINE_S, HERE, Statistics, roles, start_broker
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
        boss = start("boss", HEAVY, "--broker", addresses["address"], "--epochs", "4000", "--policy", "uniform")
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


@pytest.mark.parametrize("wrong", ["port", "folder"])
def test_a_boss_that_cannot_be_watched_ends_before_it_has_joined_and_leaves_the_run_to_others(
    tmp_path: Path, wrong: str
) -> None:
    (tmp_path / "file").touch()
    with roles() as start, socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        broker, address, _ = start_broker(start, tmp_path / "run")
        words = ["boss", "digits", "--broker", address, "--epochs", "1", "--policy", "uniform"]
        wishes = {"port": ["--http-port", port], "folder": ["--tensorboard", str(tmp_path / "file")]}
        complaints = {"port": port, "folder": "give a folder that can be written"}
        first = start(*words, *wishes[wrong])
        assert first.end() == 2 and complaints[wrong] in first.text, first.text
        assert start(*words).end() == 0
        assert broker.end() == 0, broker.text
    assert read_report(tmp_path / "run").status == "finished"


class Prometheus:
    """One that listens on a port of this host."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/api/v1"

    def _get(self, path: str) -> Any:
        """The data of an answer; an error in the expression raises."""
        try:
            with urllib.request.urlopen(f"{self._address}/{path}", timeout=30.0) as response:
                answer = json.loads(response.read())
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it still reads its storage
                raise
            with error:
                raise AssertionError(f"{path}: {error.read().decode()}") from error
        assert answer["status"] == "success", answer
        return answer["data"]

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """What a query gives."""
        return list(self._get(f"query?{urllib.parse.urlencode({'query': expression})}")["result"])

    def rules(self) -> dict[str, str]:
        """Health of each alert rule, by name: unknown until it was evaluated, then ok or err."""
        return {rule["name"]: rule["health"] for group in self._get("rules")["groups"] for rule in group["rules"]}

    def wait_until(self, is_true: Callable[[Prometheus], bool], what: str) -> None:
        """Ask again and again, while it does not listen yet too."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with suppress(OSError):
                if is_true(self):
                    return
            threading.Event().wait(0.2)
        raise AssertionError(f"never saw {what}; targets: {self._get('targets')['activeTargets']}")


@contextmanager
def prometheus(program: str, folder: Path, broker: str, roles_at: list[str]) -> Iterator[Prometheus]:
    """A Prometheus with our configuration, that scrapes the broker and the roles every half second."""
    for name in ("prometheus.yml", "alerts.yml"):
        text = (ROOT / "deploy" / "prometheus" / name).read_text()
        text = text.replace("broker:9155", broker).replace("_interval: 5s", "_interval: 500ms")
        (folder / name).write_text(text.replace("targets: []", f"targets: {json.dumps(roles_at)}"))
    port = free_port()
    words = [program, "--config.file", str(folder / "prometheus.yml"), "--storage.tsdb.path", str(folder / "db")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*words, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        yield Prometheus(port)
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def address_of(line: str) -> str:
    """host:port of what a role says of its metrics."""
    found = re.search(r"metrics on http://([^/]+)/metrics", line)
    assert found is not None, line
    return found[1]


def test_a_real_prometheus_answers_each_query_of_the_dashboard_and_evaluates_each_alert(tmp_path: Path) -> None:
    """It scrapes the three roles of one run, which is well: so no alert fires."""
    program = needed("prometheus")
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    expressions = {target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}
    # Nobody sends anything here that would have to be refused.
    unanswered = {e.replace("$instance", ".*") for e in expressions if "refused" not in e}
    unanswered |= {"autoassist_boss_own_steps_total > 0", "autoassist_assistant_own_scored_instances_total > 0"}
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    with roles() as start:
        broker = start("broker", "--run-dir", str(tmp_path / "run"), "--port", "0", "--announce", "--http-port", "0")
        addresses = json.loads(broker.wait_for('{"address"'))
        to_broker = ("--broker", addresses["address"], "--http-port", "0")
        assistant = start("assistant", HEAVY, *to_broker, "--name", "assistant-0")
        boss = start("boss", HEAVY, *to_broker, "--epochs", "1000")
        own = [address_of(role.wait_for("metrics on")) for role in (assistant, boss)]
        with prometheus(program, tmp_path, urllib.parse.urlsplit(addresses["http"]).netloc, own) as found:
            found.wait_until(
                lambda p: not unanswered.difference_update([e for e in unanswered if p.ask(e)]) and not unanswered,
                f"an answer to {unanswered}",
            )
            found.wait_until(lambda p: "unknown" not in p.rules().values(), "all rules evaluated")
            health = found.rules()
            assert set(health) == set(re.findall(r"- alert: (\w+)", rules)) and set(health.values()) == {"ok"}, health
            for expression in re.findall(r"^        expr: (.+)$", rules, re.M):
                found.ask(expression)
            assert not found.ask('ALERTS{alertname="BrokerDown"}')
