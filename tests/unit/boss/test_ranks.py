"""Ranks that look for each other: where, how long, and what a signal does meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from boss.ranks import process_group
from protocol.errors import SettingError
from tests.processes.test_roles import free_port

ROOT = Path(__file__).resolve().parents[3]
WAIT_S = 60.0
PLACE = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
STARTS = """
import faulthandler, sys, torch
from autoassist.boss_command import _interrupted_by
from boss import ranks
from protocol.signals import StopSignal
faulthandler.dump_traceback_later(60, exit=True)  # so that a test fails rather than hangs
ranks.AWAITED_S = 0.1
with StopSignal(second_kills=True) as stop, _interrupted_by(stop), ranks.process_group(torch.device("cpu")):
    print("together", flush=True)
    sys.stdin.readline()
    ranks.AWAITED_S, ranks.SILENCE_S = 4.0, 3.0
    print(f"{ranks.RankGroup().gather(1)}", flush=True)
"""
"""A Boss, up to its feed. It says that others are awaited once nobody can be in time by the timeout of the stream."""
Start = Callable[[int], subprocess.Popen[str]]


@pytest.fixture
def rank() -> Iterator[Start]:
    """Starts one of two."""
    port = str(free_port())
    started: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:

        def start(number: int) -> subprocess.Popen[str]:
            environment = {**os.environ, **PLACE, "RANK": str(number), "MASTER_PORT": port}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            words = [sys.executable, "-c", STARTS]
            process = subprocess.Popen(words, cwd=ROOT, env=environment, text=True, **pipes)  # type: ignore[call-overload]
            started.append(stack.enter_context(process))
            return started[-1]

        yield start
        for process in started:
            process.kill()


def read_until(pipe: object, words: str) -> str:
    """The line that has them; a rank that ends before it says them is a failure."""
    lines = []
    for line in pipe:  # type: ignore[attr-defined]
        lines.append(line)
        if words in line:
            return line
    raise AssertionError(f"never said {words!r}: {''.join(lines)}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rank_whose_others_do_not_appear_says_where_it_waits_and_ends_by_the_first_signal(
    rank: Start, number: signal.Signals
) -> None:
    alone = rank(0)
    said = read_until(alone.stderr, "waiting")
    assert "rank 0 is waiting for the other ranks of WORLD_SIZE=2 at MASTER_ADDR:MASTER_PORT 127.0.0.1:" in said
    alone.send_signal(number)
    assert alone.wait(WAIT_S) == -number


def both_together(rank: Start) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """Two ranks that have found each other; the first has gone on to its feed, and has missed the other there."""
    first, late = rank(0), rank(1)
    for one in (first, late):
        read_until(one.stdout, "together")
    go_on(first)
    assert "rank 1 of 2: not there yet" in read_until(first.stderr, "not there yet")
    return first, late


def go_on(one: subprocess.Popen[str]) -> None:
    assert one.stdin is not None
    one.stdin.write("\n")
    one.stdin.flush()


def test_a_rank_that_connects_its_feed_later_than_ranks_may_be_silent_is_waited_for(rank: Start) -> None:
    first, late = both_together(rank)
    go_on(late)
    for one in (first, late):
        assert one.communicate(timeout=WAIT_S)[0] == "[1, 1]\n"
        assert one.returncode == 0


def test_a_rank_that_waits_for_another_s_feed_hears_a_signal(rank: Start) -> None:
    first, late = both_together(rank)
    first.send_signal(signal.SIGTERM)
    assert "KeyboardInterrupt" in first.communicate(timeout=WAIT_S)[1]
    late.kill()


WRONG = {
    "MASTER_ADDR is not": {"MASTER_ADDR": ""},
    "MASTER_PORT is not": {"MASTER_PORT": ""},
    "MASTER_PORT=here": {"MASTER_PORT": "here"},
    "MASTER_PORT=99999": {"MASTER_PORT": "99999"},
    "WORLD_SIZE=many": {"WORLD_SIZE": "many"},
    "RANK=2": {"RANK": "2"},
}


@pytest.mark.parametrize("words, wrong", WRONG.items(), ids=WRONG)
def test_ranks_that_are_not_told_where_to_meet_say_what_is_missing_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, words: str, wrong: dict[str, str]
) -> None:
    for name, value in {**PLACE, **wrong}.items():
        monkeypatch.setenv(name, value)
    said = pytest.raises(SettingError, match=f"{words}.*start with torchrun, or unset RANK and WORLD_SIZE")
    with said, process_group(torch.device("cpu")):
        pass
