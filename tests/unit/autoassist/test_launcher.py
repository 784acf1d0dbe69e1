"""The launcher's rules, without a run: settings, what an exit means, a child without a log, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import msgspec
import pytest

from autoassist.children import Child
from autoassist.launcher import Launcher, LaunchSettings
from autoassist.notices import Notices
from autoassist.run_command import RunCommand
from autoassist.run_directory import log_bytes
from broker.store import LOGS
from protocol.errors import RoleFailed, SettingError
from protocol.report import Report, encode_report
from protocol.signals import StopSignal
from tests.unit.autoassist.test_views import REPORT

DEADLINE_S = 60.0


@pytest.mark.parametrize("value", [0.0, -5.0, float("nan"), float("inf")])
def test_a_drain_time_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(SettingError, match=r"drain_s=.*positive number of seconds"):
        LaunchSettings(drain_s=value)


@pytest.mark.parametrize("name", ["assistant_restarts", "broker_restarts", "boss_restarts"])
def test_a_negative_number_of_restarts_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match=f"{name}=-1"):
        LaunchSettings(**{name: -1})
    LaunchSettings(**{name: 0})


def test_a_child_is_heard_and_its_end_noticed_where_its_log_cannot_be_written(tmp_path: Path) -> None:
    heard, news = [], threading.Event()
    child = Child("x", ["nonsense"], tmp_path / "gone" / "x.log", lambda _, line: heard.append(line), on_news=news.set)
    child.start()
    assert news.wait(DEADLINE_S)
    assert child.code == 2 and "no command 'nonsense'" in heard[0]
    assert "no command 'nonsense'" in child.last_words


def test_a_launcher_s_roles_are_ranks_of_nobody_but_of_whom_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster leaves these set for whatever it starts; a Boss would wait for ranks that nobody starts."""
    words = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
    words += ("ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
    for name in words:
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    given: list[dict[str, str]] = []
    started = subprocess.Popen(["true"], stderr=subprocess.PIPE, text=True)

    def popen(*_: object, env: dict[str, str], **__: object) -> subprocess.Popen[str]:
        given.append(env)
        return started

    monkeypatch.setattr("autoassist.children.subprocess.Popen", popen)
    environment = {"MASTER_PORT": "29500"}
    child = Child("x", [], tmp_path / "x.log", lambda *_: None, on_news=lambda: None, environment=environment)
    child.start()
    assert child.wait(DEADLINE_S)
    assert {name: given[0][name] for name in words if name in given[0]} == environment
    assert given[0]["OMP_NUM_THREADS"] == "3"


def test_a_child_that_announces_nothing_is_no_news_before_its_last_words_are_there(tmp_path: Path) -> None:
    """What it says and what it announces come by two pipes, of which the second may end long before."""
    words: list[str] = []
    child = Child("x", [], tmp_path / "x.log", lambda *_: None, on_news=lambda: words.append(child.last_words))
    child.process = subprocess.Popen(["true"], stdout=subprocess.PIPE, text=True)
    child._listen(child.process)
    child.process.wait(DEADLINE_S)
    assert words == [] and child.announcement == ""


def test_a_child_hears_no_ctrl_c_of_the_terminal_and_shares_the_session_in_which_priorities_count(
    tmp_path: Path,
) -> None:
    child = Child("x", ["nonsense"], tmp_path / "x.log", lambda *_: None, on_news=lambda: None)
    child.start()
    assert child.process is not None
    assert os.getpgid(child.process.pid) == child.process.pid != os.getpgid(0)
    assert os.getsid(child.process.pid) == os.getsid(0)
    assert child.wait(DEADLINE_S)


def test_a_broker_that_cannot_be_started_is_told_with_its_last_words(tmp_path: Path) -> None:
    stop = StopSignal()
    launcher = Launcher(LaunchSettings(), tmp_path, stop, Notices())
    with pytest.raises(RoleFailed, match="broker ended with code 2: no command 'nonsense'"):
        launcher.start_broker(["nonsense"])
    launcher.shut_down()
    stop.close()
    assert launcher.is_void


def test_a_broker_that_has_long_logs_to_read_is_given_the_time_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoassist.run_directory.START_S", 0.0)
    monkeypatch.setattr("autoassist.run_directory.log_bytes", lambda *_: 60e6)
    stop = StopSignal()
    launcher = Launcher(LaunchSettings(), tmp_path, stop, Notices())
    words = ["broker", "--run-dir", str(tmp_path), "--port", "0", "--announce"]
    assert launcher.start_broker(words).startswith("tcp://")
    launcher.shut_down()
    stop.close()


def test_all_logs_of_a_run_count_and_a_new_run_has_none(tmp_path: Path) -> None:
    assert log_bytes(tmp_path) == 0
    for name in LOGS:
        (tmp_path / name).write_bytes(b"1234567")
    assert log_bytes(tmp_path) == 7 * len(LOGS)


CODES = {
    "finished": ("finished", 0, 0),
    "finished in spite of a signal": ("finished", signal.SIGINT, 0),
    "stopped": ("stopped", signal.SIGINT, 130),
    "stopped by somebody else": ("stopped", 0, 143),
    "killed before it could say that it was stopped": ("running", signal.SIGTERM, 143),
}


def conclude(run_dir: Path, status: str, number: int) -> int:
    """The exit code of a run with that report, and that signal."""
    report = msgspec.structs.replace(msgspec.convert(REPORT, Report), status=status)
    (run_dir / "report.json").write_bytes(encode_report(report))
    stop, notices = StopSignal(), Notices()
    stop.requested, stop.number = number > 0, number
    launcher = Launcher(LaunchSettings(), run_dir, stop, notices)
    launcher._child("broker", [])
    stop.close()
    return RunCommand(workload="digits")._conclude(launcher, run_dir, stop, notices)


@pytest.mark.parametrize("status, number, code", CODES.values(), ids=CODES.keys())
def test_the_exit_code_says_what_the_report_says(tmp_path: Path, status: str, number: int, code: int) -> None:
    assert conclude(tmp_path, status, number) == code


@pytest.mark.parametrize("status", ["failed", "running"])
def test_a_run_that_has_not_finished_is_a_failure(tmp_path: Path, status: str) -> None:
    with pytest.raises(RoleFailed, match=f"the run is {status}"):
        conclude(tmp_path, status, 0)


def test_a_run_without_a_report_is_a_failure(tmp_path: Path) -> None:
    stop, notices = StopSignal(), Notices()
    launcher = Launcher(LaunchSettings(), tmp_path, stop, notices)
    launcher._child("broker", [])
    with pytest.raises(RoleFailed, match=r"without .*report\.json"):
        RunCommand(workload="digits")._conclude(launcher, tmp_path, stop, notices)
    stop.close()
