"""The network between two hosts is cut: both ends notice, the Boss trains on, and all is made up for afterwards.

Two network namespaces stand for the hosts; packets are dropped without a word, so that TCP connections are half open.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.report import read_report
from tests.faults.test_broker_outage import assert_hardly_a_wait, assert_nothing_lost_or_doubled
from tests.processes.heavy_digits import Pace
from tests.processes.roles import HERE, Statistics, roles, start_broker
from tests.processes.test_roles import free_port

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"
_numbers = itertools.count()


def does(*words: str) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


class OtherHost:
    """A network namespace, linked to this one by a pair of interfaces."""

    def __init__(self, number: int) -> None:
        self.name = f"autoassist-{number}"
        self.near, self.far = f"aa{number}near", f"aa{number}far"
        block = number % 60
        self.here, self.there = f"10.213.{block}.1", f"10.213.{block}.2"
        self.within = ("ip", "netns", "exec", self.name)

    def open(self) -> bool:
        """Make it; False where this system does not let us."""
        return (
            does("ip", "netns", "add", self.name)
            and does("ip", "link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", self.name)
            and does("ip", "addr", "add", f"{self.here}/30", "dev", self.near)
            and does("ip", "link", "set", self.near, "up")
            and does(*self.within, "ip", "addr", "add", f"{self.there}/30", "dev", self.far)
            and does(*self.within, "ip", "link", "set", self.far, "up")
            and does(*self.within, "iptables", "-L")
        )

    def cut(self) -> None:
        """Drop every packet, both ways, without telling anybody."""
        for chain in ("INPUT", "OUTPUT"):
            assert does(*self.within, "iptables", "-A", chain, "-j", "DROP")

    def cut_from(self, address: str) -> None:
        """Drop what goes to one port, and what comes from there; everything else passes."""
        port = address.rpartition(":")[2]
        for chain, side in (("OUTPUT", "--dport"), ("INPUT", "--sport")):
            assert does(*self.within, "iptables", "-A", chain, "-p", "tcp", side, port, "-j", "DROP")

    def mend(self) -> None:
        """Let packets through again."""
        assert does(*self.within, "iptables", "-F")

    def close(self) -> None:
        """Remove it, its interfaces with it."""
        does("ip", "link", "del", self.near)
        does("ip", "netns", "del", self.name)


@pytest.fixture
def other_host() -> Iterator[OtherHost]:
    host = OtherHost(os.getpid() * 8 % 1000 + next(_numbers))
    try:
        if os.geteuid() != 0 or not host.open():
            pytest.skip("network namespaces need root, ip and iptables")
        yield host
    finally:
        host.close()


def test_a_boss_that_is_cut_off_trains_on_and_comes_back(tmp_path: Path, other_host: OtherHost, pace: Pace) -> None:
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path, "--host", other_host.here, "--insecure")
        assistant = start("assistant", HEAVY, "--broker", address)
        within = {"within": other_host.within, "environment": pace.environment}
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "20", **within)
        boss.wait_for("epoch 1:")
        other_host.cut()
        broker.wait_for("boss-0 is silent")
        boss.wait_for("no sign of the broker for")
        other_host.mend()
        broker.wait_for("boss-0 has joined")
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
    assert_nothing_lost_or_doubled(tmp_path, 20)
    report = read_report(tmp_path)
    assert report.boss.off_plan_steps > 0, "it did not wait for the network"
    assert report.loss_reports.sent == report.loss_reports.delivered


def test_an_assistant_that_is_cut_off_holds_nobody_up_and_filters_again_afterwards(
    tmp_path: Path, other_host: OtherHost, pace: Pace
) -> None:
    def windows(statistics: Statistics) -> int:
        return next((p.windows for p in statistics.last.peers if p.role == "assistant"), 0)

    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path, "--host", other_host.here, "--insecure")
        statistics = Statistics(statistics_address)
        assistant = start("assistant", HEAVY, "--broker", address, within=other_host.within)
        assistant.wait_for("waiting for the broker")
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "80", environment=pace.environment)
        statistics.wait_until(lambda s: s.epoch >= 2 and windows(statistics) > 5, "filtering")
        other_host.cut()
        broker.wait_for("assistant-0 is silent")
        before = statistics.now()
        statistics.wait_until(lambda s: s.unfiltered > before.unfiltered + s.n, "a whole epoch unfiltered")
        kept_at_work = windows(statistics)
        other_host.mend()
        statistics.wait_until(lambda s: windows(statistics) > kept_at_work + 5, "windows after the cut")
        assert_hardly_a_wait(statistics.last)
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
        statistics.close()
    assert_nothing_lost_or_doubled(tmp_path, 80)


def test_a_rank_on_another_host_that_is_cut_off_from_the_broker_does_the_same_steps_as_the_others(
    tmp_path: Path, other_host: OtherHost, pace: Pace
) -> None:
    """Rank 0 tells it what comes; its reports wait until the network is back."""
    epochs = 60
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path, "--host", other_host.here, "--insecure")
        statistics = Statistics(statistics_address)
        words = ("boss", HEAVY, "--broker", address, "--batch-size", "32", "--epochs", str(epochs))
        place = {"MASTER_ADDR": other_host.here, "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        place |= pace.environment
        first = start(*words, environment={**place, "RANK": "0", "GLOO_SOCKET_IFNAME": other_host.near})
        there = {**place, "RANK": "1", "GLOO_SOCKET_IFNAME": other_host.far}
        second = start(*words, environment=there, within=other_host.within)
        assistant = start("assistant", HEAVY, "--broker", address)
        first.wait_for("epoch 1:")
        other_host.cut_from(address)
        broker.wait_for("boss-1 is silent")
        statistics.wait_until(lambda s: s.next_step > s.trained_steps + 40, "steps that only rank 0 could report")
        other_host.mend()
        broker.wait_for("boss-1 has joined")
        pace.hurry()
        assert first.end() == 0, first.text
        assert second.end() == 0, second.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
        statistics.close()
    assert_nothing_lost_or_doubled(tmp_path, epochs)
    reports = read_report(tmp_path).loss_reports
    assert reports.sent == reports.delivered
