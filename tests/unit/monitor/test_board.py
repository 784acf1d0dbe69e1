"""What the page knows of a run, and what it tells a browser."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from autoassist.figures import Pair
from autoassist.monitor import board as boards
from autoassist.monitor.board import MOST_SAMPLES, Board
from autoassist.monitor.series import CHARTS, description, values
from autoassist.monitor.serve import TRIES, listen
from protocol.errors import PortInUse, SettingError
from protocol.statistics import PeerStatistics, RunStatistics

LABELS = [series.label for chart in CHARTS for series in chart.series]


def run(**changes: Any) -> RunStatistics:
    return RunStatistics(**{"run_id": "r", "policy": "autoassist", "n": 100, **changes})


def drawn(pair: Pair) -> dict[str, float | None]:
    return dict(zip(LABELS, values(pair), strict=True))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def a_board() -> tuple[Board, Clock]:
    clock = Clock()
    return Board(clock, wall=lambda: 1e9 + clock.now), clock


def test_each_curve_has_a_name_of_its_own() -> None:
    assert len(set(LABELS)) == len(LABELS) and len({chart.name for chart in CHARTS}) == len(CHARTS)
    assert [series["label"] for chart in description() for series in chart["series"]] == LABELS


def test_rates_are_differences_over_the_time_between() -> None:
    before, now = run(trained_steps=10, offered=100, kept=90), run(trained_steps=30, offered=500, kept=190)
    found = drawn(Pair(now, before, 2.0))
    assert (found["steps/s"], found["offered/s"], found["kept/s"]) == (10.0, 200.0, 50.0)
    assert drawn(Pair(now))["steps/s"] is None


def test_windows_that_come_now_and_then_make_a_steady_rate() -> None:
    """Every other sample has a whole window more, and the ones between have none."""
    board, clock = a_board()
    for half_seconds in range(40):
        clock.now += 0.5
        board.show(run(offered=256 * (half_seconds // 2)))
    rates = [sample[2][LABELS.index("offered/s")] for sample in board.samples[-20:]]
    assert rates == [256.0] * 20


def test_after_a_silence_the_rate_is_that_of_the_silence() -> None:
    board, clock = a_board()
    for steps, seconds in ((0, 0.5), (5, 0.5), (10, 0.5), (110, 100.0)):
        clock.now += seconds
        board.show(run(trained_steps=steps))
    assert board.samples[-1][2][LABELS.index("steps/s")] == 1.0


def test_a_run_that_was_taken_back_has_no_negative_rate() -> None:
    assert drawn(Pair(run(trained_steps=10), run(trained_steps=30), 2.0))["steps/s"] is None


def test_what_is_not_known_is_no_value() -> None:
    found = drawn(Pair(run()))
    assert [found[name] for name in ("kept, this epoch", "exposed wait", "p99", "lift")] == [None] * 4
    peer = PeerStatistics(name="a", role="assistant", silent_s=0.0, lift=0.5, lift_error=float("inf"))
    assert drawn(Pair(run(peers=[peer])))["three standard errors"] is None


def test_the_figures_are_those_of_the_statistics() -> None:
    peers = [
        PeerStatistics(name="a", role="assistant", silent_s=0.0, lift=0.5, lift_error=0.1, cpu_percent=50.0),
        PeerStatistics(name="b", role="assistant", silent_s=0.0, lift=0.3, lift_error=0.05, cpu_percent=25.0),
        PeerStatistics(name="boss-0", role="boss", silent_s=0.0, cpu_percent=100.0, rss_bytes=5_000_000),
    ]
    statistics = run(
        **{
            "epoch_offered": 10,
            "epoch_kept": 4,
            "offered": 40,
            "unfiltered": 10,
            "exposed_wait_s": 1.0,
            "wall_s": 50.0,
        },
        **{"staleness_p50": 3.0, "staleness_p99": 9.0, "staleness_max": 12, "staleness_bound": 96, "values_dropped": 7},
        **{"ready_batches": 5, "leased_windows": 2, "stock_instances": 60, "refused": {"x": 2, "y": 1}, "peers": peers},
    )
    found = drawn(Pair(statistics))
    expected = {
        **{"kept, this epoch": 0.4, "unfiltered, whole run": 0.25, "exposed wait": 0.02, "p50": 3.0, "p99": 9.0},
        **{"greatest": 12.0, "bound": 96.0, "loss values dropped": 7.0, "inputs refused": 3.0, "lift": 0.4},
        **{"batches ready at the Boss": 5.0, "windows leased": 2.0, "instances in stock": 60.0},
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["three standard errors"] == pytest.approx(0.3)


def test_a_browser_is_told_all_and_then_what_it_lacks() -> None:
    board, clock = a_board()
    for step in range(3):
        board.show(run(trained_steps=step))
        clock.now += 0.5
    first = board.news(0)
    assert first["reset"] and len(first["samples"]) == 3 and first["now"]["trained_steps"] == 2
    board.show(run(trained_steps=9))
    then = board.news(3)
    assert not then["reset"] and [sample[0] for sample in then["samples"]] == [3]
    json.dumps(then)


def test_another_run_begins_anew_for_browsers_that_have_the_old_one() -> None:
    board, _ = a_board()
    board.show(run())
    board.show(run(run_id="other"))
    news = board.news(1)
    assert news["reset"] and len(news["samples"]) == 1 and news["samples"][0][2][LABELS.index("steps/s")] is None


def test_a_long_run_costs_no_more_memory_and_keeps_its_beginning() -> None:
    board, clock = a_board()
    for step in range(5 * MOST_SAMPLES):
        board.show(run(trained_steps=step))
        clock.now += 0.5
    numbers = [sample[0] for sample in board.samples]
    assert len(numbers) <= MOST_SAMPLES and numbers == sorted(set(numbers))
    assert numbers[0] == 0 and numbers[-100:] == list(range(5 * MOST_SAMPLES - 100, 5 * MOST_SAMPLES))


def test_the_state_says_what_is_the_matter() -> None:
    board, clock = a_board()
    assert board.state()[0] == "waiting"
    board.fail("the broker wants a key")
    assert board.state() == ("waiting", "the broker wants a key")
    board.show(run(policy=""))
    assert board.state() == ("waiting", "The broker waits for a Boss.")
    board.show(run())
    assert board.state()[0] == "live"
    clock.now += 4.0
    state, words = board.state()
    assert state == "silent" and "nothing for 4 s" in words
    board.show(run())
    assert board.state()[0] == "live"
    board.show(run(ended="finished"))
    clock.now += 100.0
    assert board.state() == ("ended", "The run is over: finished.")


def test_the_stream_sends_a_word_when_something_changes_and_ends_with_the_board() -> None:
    async def hear() -> list[dict[str, Any]]:
        board, _ = a_board()
        found = []
        async for event in board.stream():
            assert event.startswith(b"data: ") and event.endswith(b"\n\n")
            found.append(json.loads(event.removeprefix(b"data: ")))
            loop = asyncio.get_running_loop()
            loop.call_soon(*((board.close,) if len(found) == 3 else (board.show, run(trained_steps=len(found)))))
        return found

    first, second, third = asyncio.run(asyncio.wait_for(hear(), 30.0))
    assert first["samples"] == [] and first["now"] is None
    assert second["now"]["trained_steps"] == 1 and len(second["samples"]) == len(third["samples"]) == 1


def test_a_browser_hears_of_a_silent_broker_though_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "TURN_S", 0.001)

    async def hear() -> str:
        board, clock = a_board()
        board.show(run())
        async for event in board.stream():
            if (state := json.loads(event.removeprefix(b"data: "))["state"]) != "live":
                return str(state)
            clock.now += 1.0
        return ""

    assert asyncio.run(asyncio.wait_for(hear(), 30.0)) == "silent"


def test_a_taken_port_is_left_for_the_next_free_one() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with listen("127.0.0.1", port) as second:
            assert port < second.getsockname()[1] < port + TRIES


def test_an_address_of_another_host_is_refused() -> None:
    with pytest.raises(SettingError, match=r"host=192\.0\.2\.1 port=8080"):
        listen("192.0.2.1", 8080)


def test_a_host_without_a_free_port_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: object, **__: object) -> socket.socket:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(socket, "create_server", taken)
    with pytest.raises(PortInUse, match="choose another --port"):
        listen("127.0.0.1", 8080)
