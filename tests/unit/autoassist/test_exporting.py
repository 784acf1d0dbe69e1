"""A role's own port: figures as of now, looked at from outside, whoever asks and however often."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

import pytest

from autoassist.exporting import LOOK_EVERY_S, Glance, exporting, of_rank
from protocol.exporter import LIVE_S, ExporterSettings
from protocol.role_metrics import ASSISTANT_METRICS
from protocol.role_statistics import AssistantStatistics


class Clock:
    """Stands still until it is told otherwise."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_role_is_looked_at_no_more_often_than_told() -> None:
    clock, looks = Clock(), iter(range(1, 10))
    glance = Glance(lambda: next(looks), clock)
    assert [glance() for _ in range(3)] == [1, 1, 1]
    clock.now += LOOK_EVERY_S
    assert glance() == 2


def test_nothing_is_shown_until_there_is_something_and_what_changes_meanwhile_is_looked_at_again() -> None:
    clock, found = Clock(), [None, 7]

    def look() -> int | None:
        if not found:
            raise RuntimeError("deque mutated during iteration")
        return found.pop(0)

    glance = Glance(look, clock)
    assert glance() is None and glance() == 7
    clock.now += LOOK_EVERY_S
    assert glance() == 7  # what was seen before
    found.append(8)
    assert glance() == 8  # and no wait


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30.0) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_port_serves_the_figures_of_a_role_that_turns_and_says_so_where_it_is_stuck() -> None:
    statistics: list[AssistantStatistics | None] = [None]
    turned_at = [time.monotonic()]
    settings = ExporterSettings(http_port=0)
    with exporting(settings, "Assistant", ASSISTANT_METRICS, lambda: statistics[0], lambda: turned_at[0]) as address:
        assert get(f"{address}/healthz") == (503, "the Assistant is starting\n")
        statistics[0] = AssistantStatistics(name="a", learned_through=41)
        assert get(f"{address}/healthz") == (200, "ok\n")
        assert 'autoassist_assistant_own_learned_through_step{peer="a"} 41.0' in get(f"{address}/metrics")[1]
        turned_at[0] -= LIVE_S + 60.0
        assert get(f"{address}/healthz")[0] == get(f"{address}/metrics")[0] == 503
    with pytest.raises(urllib.error.URLError):
        get(f"{address}/healthz")


def test_nothing_is_served_unless_asked_for() -> None:
    with exporting(ExporterSettings(), "Boss", ASSISTANT_METRICS, lambda: None, lambda: 0.0) as address:
        assert address == ""


def test_ranks_of_one_host_have_a_port_each() -> None:
    assert of_rank(ExporterSettings(http_port=9200), 3).http_port == 9203
    assert of_rank(ExporterSettings(http_port=0), 3).http_port == 0
    assert of_rank(ExporterSettings(), 3).http_port is None
