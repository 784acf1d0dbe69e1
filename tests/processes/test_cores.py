"""On a host with cores to spare, all of a run but the training keeps to those that the Boss leaves free."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from protocol.cores import ASIDE_VARIABLE, usable_cores
from tests.processes.heavy_digits import Pace
from tests.processes.launching import child
from tests.processes.roles import HERE, roles

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not psutil.LINUX or usable_cores() < 2, reason="needs two cores, and Linux"),
]
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


def cores_by_thread(process: psutil.Process) -> dict[int, set[int]]:
    """The cores of each thread that is there."""
    found = {}
    for thread in process.threads():
        with suppress(ProcessLookupError):
            found[thread.id] = os.sched_getaffinity(thread.id)
    return found


def test_what_a_run_does_beside_the_training_keeps_off_the_core_on_which_it_trains(tmp_path: Path, pace: Pace) -> None:
    with roles() as start:
        words = ("--epochs", "40", "--threads", "1", "--look-ahead", "on", "--run-dir", str(tmp_path / "run"))
        run = start("run", HEAVY, *words, environment=pace.environment)
        run.wait_for("epoch 0:")
        boss, others = child(run, "boss"), [child(run, role) for role in ("broker", "assistant")]
        others += others[1].children()
        assert len(others) == 3, "one looks ahead"
        named = {int(core) for core in boss.environ()[ASIDE_VARIABLE].split(",")}
        assert len(named) == usable_cores() - 1
        for process in others:
            assert all(cores == named for cores in cores_by_thread(process).values()), process.cmdline()
        threads = cores_by_thread(boss)
        assert threads.pop(boss.pid) == os.sched_getaffinity(0), "the thread that trains may go wherever it likes"
        assert list(threads.values()).count(named) >= 3, "the I/O thread, and ZeroMQ's two"
        pace.hurry()
        assert run.end() == 0, run.text
