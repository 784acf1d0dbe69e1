"""A run whose end is in its store alone: nothing is lost, and nobody is stuck."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from autoassist.ended import complete_report
from autoassist.remembered import COMMAND_FILE, WEIGHTS_FILE, Remembered
from autoassist.run_command import RunCommand
from broker.run_lock import RunLock
from protocol.errors import SettingError
from protocol.report import REPORT_FILE, encode_report, read_report
from tests.unit.autoassist.report_runs import write_run


def test_the_report_of_a_finished_run_whose_broker_was_killed_before_it_wrote_it_is_written(tmp_path: Path) -> None:
    complete_report(write_run(tmp_path, reported=False))
    assert read_report(tmp_path).status == "finished"


def test_it_says_what_the_last_epochs_report_said_and_the_store_does_not_keep(tmp_path: Path) -> None:
    report = read_report(write_run(tmp_path))
    last = replace(report, status="running", refused_input={"unreadable": 40}, versions={"python": "3.1"})
    (tmp_path / REPORT_FILE).write_bytes(encode_report(last))
    complete_report(tmp_path)
    found = read_report(tmp_path)
    assert (found.status, found.refused_input, found.versions) == ("finished", {"unreadable": 40}, {"python": "3.1"})


@pytest.mark.parametrize("ended", ["", "stopped", "failed"])
def test_of_a_run_that_may_go_on_none_is_written(tmp_path: Path, ended: str) -> None:
    complete_report(write_run(tmp_path, reported=False, ended=ended))
    assert not (tmp_path / REPORT_FILE).exists()


def test_a_report_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    before = (write_run(tmp_path) / REPORT_FILE).read_bytes()
    complete_report(tmp_path)
    assert (tmp_path / REPORT_FILE).read_bytes() == before


def test_a_broker_that_still_serves_the_run_writes_its_report_itself(tmp_path: Path) -> None:
    lock = RunLock(write_run(tmp_path, reported=False))
    complete_report(tmp_path)
    lock.close()
    assert not (tmp_path / REPORT_FILE).exists()


def test_who_resumes_such_a_run_is_told_that_it_is_finished_and_finds_its_report(tmp_path: Path) -> None:
    write_run(tmp_path, reported=False, workload="digits")
    (tmp_path / COMMAND_FILE).write_bytes(Remembered.of(RunCommand(workload="digits")).encoded())
    (tmp_path / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(SettingError, match=rf"the run is finished, see {tmp_path / REPORT_FILE}"):
        RunCommand(resume=tmp_path).execute()
    assert read_report(tmp_path).status == "finished"
