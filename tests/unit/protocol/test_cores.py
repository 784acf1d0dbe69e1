"""Cores that a Boss leaves free: who is told of them keeps to them, and the thread that trains does not."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq

from protocol import cores
from protocol.client import context_aside
from protocol.cores import ASIDE_VARIABLE, as_aside, cores_aside, keep_aside, usable_cores
from protocol.errors import SettingError

DEADLINE_S = 60.0
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cores are chosen on Linux")


@pytest.fixture
def own_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """One of this process's cores, named as what a Boss leaves free; all are had back afterwards."""
    before = os.sched_getaffinity(0)
    core = max(before)
    monkeypatch.setenv(ASIDE_VARIABLE, str(core))
    yield core
    os.sched_setaffinity(0, before)


def in_a_thread(do: Callable[[], None]) -> set[int]:
    """The cores of a thread that has done this."""
    found: list[set[int]] = []

    def run() -> None:
        do()
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def zmq_threads() -> set[int]:
    """IDs of ZeroMQ's own threads in this process."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            found |= {int(task.name)} if "ZMQbg" in (task / "comm").read_text() else set()
    return found


def test_a_thread_that_keeps_aside_does_so_alone(own_core: int) -> None:
    before = os.sched_getaffinity(0)
    assert in_a_thread(keep_aside) == {own_core}
    assert os.sched_getaffinity(0) == before


def test_what_a_thread_starts_that_keeps_aside_does_so_too(own_core: int) -> None:
    keep_aside()
    assert in_a_thread(lambda: None) == {own_core}


def test_the_threads_of_a_context_keep_aside_whoever_makes_it(own_core: int) -> None:
    before, deadline = zmq_threads(), time.monotonic() + DEADLINE_S
    with context_aside() as context, context.socket(zmq.PULL):
        while len(new := zmq_threads() - before) < 2:  # they name themselves, after they have chosen their core
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
        assert [os.sched_getaffinity(thread) for thread in new] == [{own_core}] * 2


def test_where_nobody_has_named_a_core_all_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ASIDE_VARIABLE, raising=False)
    assert in_a_thread(keep_aside) == os.sched_getaffinity(0)


def test_cores_that_are_not_this_processs_own_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher and its roles may differ in what they may use."""
    monkeypatch.setenv(ASIDE_VARIABLE, str(max(os.sched_getaffinity(0)) + 1000))
    assert in_a_thread(keep_aside) == os.sched_getaffinity(0)


def test_the_runs_of_one_host_hardly_all_leave_the_same_cores_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 5, 7})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None)
    monkeypatch.delenv(ASIDE_VARIABLE, raising=False)
    drawn = iter(range(4))
    monkeypatch.setattr(cores.secrets, "randbelow", lambda count: next(drawn))
    named = [as_aside(2)[ASIDE_VARIABLE] for _ in range(4)]
    assert named == ["2,3", "3,5", "5,7", "7,2"]
    monkeypatch.setenv(ASIDE_VARIABLE, named[3])
    assert cores_aside() == {2, 7}


def test_where_no_core_may_be_chosen_everything_goes_on_without(own_core: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeroMQ would abort the process."""

    def refused(pid: int, cores: set[int]) -> None:
        raise PermissionError

    with monkeypatch.context() as there:
        there.setattr(os, "sched_setaffinity", refused)
        assert cores_aside() == set()
        keep_aside()
    assert cores_aside() == {own_core}


@pytest.mark.parametrize(
    ("quota", "usable"), [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4)]
)
def test_a_container_uses_as_many_cores_as_its_share_comes_to(
    quota: str, usable: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 5, 7})
    file = tmp_path / "cpu.max"
    monkeypatch.setattr(cores, "QUOTA_FILE", file)
    assert usable_cores() == 4
    file.write_text(quota)
    assert usable_cores() == usable


@pytest.mark.parametrize("count", [-1, 0, 4, 5])
def test_where_there_is_no_choice_nobody_is_told_anything(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ASIDE_VARIABLE, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 5, 7})
    assert as_aside(count) == {}


def test_what_names_no_core_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASIDE_VARIABLE, "0-3")
    with pytest.raises(SettingError, match=rf"{ASIDE_VARIABLE}=0-3: give numbers"):
        context_aside()


def test_who_has_chosen_is_not_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 5, 7})
    for chosen in ("", "5"):
        monkeypatch.setenv(ASIDE_VARIABLE, chosen)
        assert as_aside(1) == {}


def test_on_other_systems_nobody_is_told_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores.sys, "platform", "darwin")
    monkeypatch.setenv(ASIDE_VARIABLE, "0")
    assert as_aside(1) == {} and cores_aside() == set() and usable_cores() == os.cpu_count()
