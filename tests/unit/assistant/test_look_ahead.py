"""Looking ahead is a process of its own: an Assistant waits for nothing of it, and it ends with its Assistant."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from assistant.look_ahead import LookAhead
from assistant.worker import Assistant, AssistantSettings
from protocol.messages import Welcome, Window
from protocol.order import EpochOrder
from protocol.settings import RunSettings
from tests.unit.assistant.looked_at import BEGUN_VARIABLE, DEADLINE_S, SEED, Broken, Endless, N, Other, Scaled, write
from tests.unit.assistant.test_worker import NOBODY

ENDS_ALONE = """
import sys
from pathlib import Path
from assistant.look_ahead import LookAhead
from tests.unit.assistant.looked_at import SEED, N, Endless
from tests.unit.assistant.test_look_ahead import window

look_ahead = LookAhead(Endless, Path(sys.argv[1]), "scaled")
look_ahead.start(N, SEED)
look_ahead.offered(window(0, 0))
print(look_ahead.process_id, flush=True)
sys.stdin.read()
"""


LEAST_RSS = 32 << 20
"""Bytes of memory that a process has at least which has loaded torch."""


def window(epoch: int, start: int, size: int = 64) -> Window:
    ids = EpochOrder(N, SEED, epoch).ids(start, start + size)
    return Window(window=0, attempt=0, epoch=epoch, progress=0.5, ids=ids)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "snapshot.pt"


@pytest.fixture
def look_ahead(path: Path) -> Iterator[LookAhead]:
    found = LookAhead(Scaled, path, "scaled")
    found.start(N, SEED)
    yield found
    found.close()


def until(is_so: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.01)):
        if is_so():
            return
        pause.wait(0.01)
    raise AssertionError(f"not so after {DEADLINE_S} s")


def losses_of(look_ahead: LookAhead, count: int) -> dict[int, float]:
    """So many, once they are found."""
    found: dict[int, float] = {}

    def are_enough() -> bool:
        for fresh in look_ahead.collect():
            found.update(zip(fresh.ids.tolist(), fresh.losses.tolist(), strict=True))
        return len(found) >= count

    until(are_enough)
    return found


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two
        return True


def process_of(look_ahead: LookAhead) -> psutil.Process:
    assert look_ahead.process_id is not None
    return psutil.Process(look_ahead.process_id)


def test_another_process_finds_the_losses_in_time_that_nobody_else_wants(path: Path, look_ahead: LookAhead) -> None:
    write(path, 2.0)
    look_ahead.offered(window(0, 0))
    found = losses_of(look_ahead, 300)
    assert all(loss == 2.0 * one for one, loss in found.items())
    assert look_ahead.process_id not in (None, os.getpid())
    if sys.platform == "linux":
        assert os.sched_getscheduler(look_ahead.process_id or 0) == os.SCHED_IDLE
        assert os.sched_getscheduler(0) != os.SCHED_IDLE


def test_one_that_is_suspended_is_not_waited_for(path: Path, look_ahead: LookAhead) -> None:
    process_of(look_ahead).suspend()
    one = window(0, 0)
    for _ in range(20_000):  # more than the pipe holds
        look_ahead.offered(one)
    assert look_ahead.collect() == []
    process_of(look_ahead).resume()
    write(path, 2.0)
    losses_of(look_ahead, 300)


def test_one_that_is_killed_is_told_once_and_the_assistant_goes_on(
    look_ahead: LookAhead, caplog: pytest.LogCaptureFixture
) -> None:
    process_of(look_ahead).kill()
    until(lambda: look_ahead.collect() == [] and look_ahead.process_id is None)
    look_ahead.offered(window(0, 0))
    assert look_ahead.collect() == []
    assert caplog.text.count("its process was killed by signal 9") == 1


def test_a_workload_whose_losses_fail_ends_the_looking_and_nothing_else(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, 2.0)
    broken = LookAhead(Broken, path, "scaled")
    broken.start(N, SEED)
    broken.offered(window(0, 0))
    until(lambda: broken.collect() == [] and broken.process_id is None)
    assert "no looking ahead any more" in caplog.text and "no losses today" in caplog.text
    assert "its process" not in caplog.text


def test_joining_anew_begins_anew(path: Path, look_ahead: LookAhead) -> None:
    before = process_of(look_ahead)
    look_ahead.start(N, SEED)
    until(lambda: is_gone(before))
    write(path, 2.0)
    look_ahead.offered(window(0, 0))
    losses_of(look_ahead, 300)


def test_of_another_data_set_nothing_is_looked_at(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path, 2.0)
    other = LookAhead(Other, path, "scaled")
    other.start(N, SEED)
    other.offered(window(0, 0))
    until(lambda: other.collect() == [] and other.process_id is None)
    assert "the data has become 'another', and the Assistant has 'scaled'" in caplog.text


def test_where_no_process_can_be_started_the_assistant_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", str(path.with_name("nothing")))
    none = LookAhead(Scaled, path, "scaled")
    none.start(N, SEED)
    none.offered(window(0, 0))
    assert none.collect() == [] and "its process cannot be started" in caplog.text
    none.close()


def test_modules_of_the_working_folder_come_after_the_installed_ones(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And who has put a Path on the module path, which Python passes over, starts it too."""
    (tmp_path / "struct.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*(entry for entry in sys.path if entry), Path("nowhere")])
    look_ahead = LookAhead(Scaled, path, "scaled")
    look_ahead.start(N, SEED)
    write(path, 2.0)
    look_ahead.offered(window(0, 0))
    losses_of(look_ahead, 300)
    look_ahead.close()


def test_it_ends_at_once_whatever_it_looks_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = path.with_suffix(".begun")
    monkeypatch.setenv(BEGUN_VARIABLE, str(begun))
    write(path, 2.0)
    endless = LookAhead(Endless, path, "scaled")
    endless.start(N, SEED)
    endless.offered(window(0, 0))
    process = process_of(endless)
    until(begun.exists)
    endless.close()
    assert endless.process_id is None
    until(lambda: is_gone(process))


def test_it_does_not_outlive_an_assistant_that_is_killed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = path.with_suffix(".begun")
    monkeypatch.setenv(BEGUN_VARIABLE, str(begun))
    write(path, 2.0)
    command = [sys.executable, "-c", ENDS_ALONE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as assistant:
        assert assistant.stdout is not None
        looker = psutil.Process(int(assistant.stdout.readline()))
        until(begun.exists)
        assistant.send_signal(signal.SIGKILL)
    until(lambda: is_gone(looker))


def joined(path: Path, settings: RunSettings) -> Assistant:
    assistant = Assistant(AssistantSettings(), NOBODY, look_ahead=LookAhead(Scaled, path, "scaled"))
    assistant._join(Welcome(run_id="run", stream="s", settings=settings, position=0, n=N))
    return assistant


def leave(assistant: Assistant) -> None:
    assert assistant.look_ahead is not None
    assistant.look_ahead.close()
    assistant.client.close()
    assistant.tables.close()


def test_an_assistant_that_gets_a_window_hands_its_policy_what_comes_after(path: Path) -> None:
    write(path, 2.0)
    assistant = joined(path, RunSettings(seed=SEED))
    try:
        assistant._take(window(0, 0))
        core = assistant.core
        assert core is not None

        def has_looked() -> bool:
            assistant._collect(core)
            return core.figures.get("instances_looked_at", 0) >= 300

        until(has_looked)
        assert core.figures["instances_looked_at"] == 300
    finally:
        leave(assistant)


def test_the_memory_of_the_process_that_looks_is_its_assistant_s(path: Path) -> None:
    assistant = joined(path, RunSettings(seed=SEED))
    own = psutil.Process().memory_info().rss

    def told() -> int:
        assistant.client._next_vitals = 0.0
        assistant.client.poll(0.0)
        return assistant.client.session.rss_bytes

    try:
        until(lambda: told() > own + LEAST_RSS)
        assert assistant.look_ahead is not None
        assistant.look_ahead.stop()
        assert 0 < told() < own + LEAST_RSS
    finally:
        leave(assistant)


@pytest.mark.parametrize("settings", [RunSettings(policy="infobatch"), RunSettings(deterministic=True)])
def test_it_does_not_look_where_that_is_of_no_use_or_would_depend_on_a_clock(
    path: Path, settings: RunSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(path, 2.0)
    assistant = joined(path, settings)
    try:
        assistant._take(window(0, 0))
        assert assistant.look_ahead is not None and assistant.look_ahead.process_id is None
    finally:
        leave(assistant)
