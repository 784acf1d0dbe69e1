"""Colour in the views where a limit is near, and only there."""

from __future__ import annotations

import io
import re
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from assistant.policies.base import CLEARLY
from autoassist import limits
from autoassist.figures import sparkline
from autoassist.limits import BAD, GOOD, NEAR
from autoassist.live import render
from autoassist.top import Rates, short
from protocol.statistics import PeerStatistics, RunStatistics

ROOT = Path(__file__).resolve().parents[3]
ALERTS = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()


def peer(role: str = "assistant", **changes: Any) -> PeerStatistics:
    usual = {"name": f"{role}-0", "role": role, "silent_s": 0.1, "lift": 0.5, "lift_error": 0.1}
    return PeerStatistics(**{**usual, **changes})


def run(**changes: Any) -> RunStatistics:
    usual = {"policy": "autoassist", "ready_batches": 6, "staleness_p50": 12.0, "staleness_max": 40}
    return RunStatistics(**{**usual, "staleness_bound": 96, "peers": [peer(), peer("boss")], **changes})


def coloured(statistics: RunStatistics) -> list[str]:
    """Words that are yellow or red."""
    console = Console(width=120, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(render(statistics))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [words.strip() for words in re.findall(r"\x1b\[(?:1;3[13]|33)m([^\x1b]+)", text)]


def test_a_run_that_is_well_has_no_colour() -> None:
    assert coloured(run()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"staleness_max": 90}, "p50 12, max 90, bound 96"),
        ({"ready_batches": 0}, "0 batches"),
        ({"ready_batches": 1}, "1 batches"),
        ({"exposed_wait_s": 3.0, "wall_s": 100.0}, "3.00%"),
        ({"values_dropped": 4}, "4 losses"),
        ({"refused": {"duplicate": 9, "bad_message": 2}}, "2 inputs"),
        ({"broker_cpu_percent": 99.0, "broker_rss_bytes": 1}, "99 %"),
        ({"peers": [peer(silent_s=5.0)]}, "assistant-0 silent 5 s"),
        ({"peers": [peer(backlog_records=900)]}, "900"),
        ({"peers": [peer(lift=0.15)]}, "0.150 ± 0.100"),
        ({"peers": [peer(cpu_percent=100.0)]}, "100 %"),
    ],
)
def test_what_is_near_its_limit_is_coloured_and_nothing_else(changes: dict[str, Any], words: str) -> None:
    assert coloured(run(**changes)) == [words]


def test_a_boss_is_meant_to_be_busy_and_a_run_that_is_over_needs_no_batches() -> None:
    assert coloured(run(peers=[peer("boss", cpu_percent=199.0)])) == []
    assert limits.ready(run(ready_batches=0, ended="finished")) == GOOD
    assert limits.ready(run(ready_batches=0, peers=[peer()])) == GOOD


def test_what_is_beyond_is_told_from_what_is_near() -> None:
    assert [limits.staleness(run(staleness_max=at)) for at in (None, 86, 87, 96)] == [GOOD, GOOD, NEAR, BAD]
    assert [limits.wait(run(exposed_wait_s=s, wall_s=100.0)) for s in (2.0, 3.0, 11.0)] == [GOOD, NEAR, BAD]
    assert [limits.silence(peer(silent_s=s)) for s in (1.0, 2.0, 4.0)] == [GOOD, NEAR, BAD]
    assert [limits.backlog(peer(backlog_records=n)) for n in (500, 501, 1001)] == [GOOD, NEAR, BAD]


def test_limits_are_those_of_the_alerts() -> None:
    assert f"> {limits.NEAR_BOUND:g} * autoassist_staleness_bound_steps" in ALERTS
    assert f"autoassist_boss_exposed_wait_ratio > {limits.MUCH_WAIT:g}" in ALERTS
    assert f"autoassist_assistant_backlog_records > {limits.FAR_BEHIND}" in ALERTS


def test_sparklines_are_of_what_was_kept_and_judged_between_two_samples() -> None:
    rates = Rates()
    rates.add(run(offered=100, kept=100, unfiltered=100), 5.0)
    rates.add(run(offered=200, kept=160, unfiltered=110), 6.0)
    rates.add(run(offered=200, kept=160, unfiltered=110), 7.0)
    assert list(rates.history["kept, share"]) == [0.6] and list(rates.history["unfiltered, share"]) == [0.1]
    assert list(rates.history["lift of assistant-0"]) == [0.5, 0.5, 0.5]


def test_figures_are_short_and_a_lift_below_nothing_has_the_lowest_bar() -> None:
    assert [short(v) for v in (0.0, 7.0, 0.1234, 61.26, 12345.6)] == ["0", "7", "0.123", "61.3", "12346"]
    assert sparkline(deque([-0.5, 0.0, 1.0])) == "▁▁█"


def test_a_lift_is_clear_where_the_gate_holds_it_to_be() -> None:
    assert limits.CLEAR == CLEARLY
    assert [limits.lift(peer(lift=lift)) for lift in (0.25, 0.31)] == [NEAR, GOOD], "at an error of 0.1"
