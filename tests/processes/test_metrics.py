"""What Prometheus reads of a run."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.processes.roles import HERE, Statistics, roles

pytestmark = pytest.mark.processes
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
