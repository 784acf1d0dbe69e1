"""``autoassist top`` where nobody publishes any more: it says so at once."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from autoassist.ended import read_ended
from autoassist.summary import COMMAND_FILE
from autoassist.top import TopCommand
from broker.addresses import write_addresses
from broker.run_lock import RunLock, is_served
from broker.store import DATABASE, RunStore
from protocol.errors import BrokerUnreachable, DataError, SettingError
from tests.unit.autoassist.report_runs import STEPS, write_run

NOBODY = "tcp://127.0.0.1:9"
AT_ONCE_S = 0.01


def left(folder: Path, *, ended: str = "finished", reported: bool = True) -> Path:
    """A run with the addresses of its broker, which is gone."""
    write_addresses(folder, address=NOBODY, statistics=NOBODY)
    return write_run(folder, ended=ended, reported=reported)


@pytest.mark.parametrize("reported", [True, False])
def test_top_says_that_a_run_is_over_and_shows_its_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reported: bool
) -> None:
    """Its report may be missing where its broker was killed at the end."""
    assert TopCommand(target=str(left(tmp_path, reported=reported))).execute() == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path}: the run is over (finished)") and f"80 in {STEPS} steps" in said


def test_top_gives_scripts_the_last_statistics_of_a_run_that_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert TopCommand(target=str(left(tmp_path, ended="stopped")), json=True).execute() == 0
    sample = json.loads(capsys.readouterr().out)
    assert (sample["ended"], sample["trained_steps"], sample["broker_rss_bytes"]) == ("stopped", STEPS, 0)


def told(run_dir: Path) -> str:
    """What ``top`` complains of."""
    with pytest.raises(BrokerUnreachable) as caught:
        TopCommand(target=str(run_dir), timeout_s=AT_ONCE_S).execute()
    return str(caught.value)


@pytest.mark.parametrize(
    ("by_launcher", "how"), [(True, "autoassist run --resume {}"), (False, "autoassist broker --run-dir {}")]
)
def test_top_says_of_a_killed_run_how_to_see_it_and_how_to_go_on(tmp_path: Path, by_launcher: bool, how: str) -> None:
    """Only what ``autoassist run`` has begun can be resumed by it."""
    run_dir = left(tmp_path, ended="", reported=False)
    if by_launcher:
        (run_dir / COMMAND_FILE).write_text("{}")
    said = told(run_dir)
    assert "has not ended" in said and f"so it was killed; autoassist report {run_dir} shows how far" in said
    assert how.format(run_dir) in said


@pytest.mark.parametrize(
    ("by_launcher", "how"),
    [(True, "autoassist run --resume {} begins it"), (False, "autoassist broker --run-dir {} serves it again")],
)
def test_top_says_of_a_broker_that_no_boss_has_met_how_to_begin(tmp_path: Path, by_launcher: bool, how: str) -> None:
    """Nothing was killed, and nothing is there that a report could show."""
    write_addresses(tmp_path, address=NOBODY, statistics=NOBODY)
    RunStore(tmp_path).close()
    if by_launcher:
        (tmp_path / COMMAND_FILE).write_text("{}")
    said = told(tmp_path)
    assert said.startswith(f"{tmp_path}: its broker has ended before any Boss came; {how.format(tmp_path)}")
    assert "killed" not in said and "report" not in said


def test_top_says_of_a_damaged_store_that_it_is(tmp_path: Path) -> None:
    run_dir = left(tmp_path, ended="", reported=False)
    (run_dir / DATABASE).write_bytes(b"this is no database")
    said = told(run_dir)
    assert f"run store {run_dir} is damaged: file is not a database; choose another run directory" in said
    assert "killed" not in said and "--resume" not in said


def test_top_watches_a_broker_that_goes_on_with_a_run_that_was_over(tmp_path: Path) -> None:
    """It is resumed, and its store says so only once a Boss has come."""
    run_dir = left(tmp_path)
    assert not is_served(run_dir)
    with closing(RunLock(run_dir)):
        assert is_served(run_dir)
        with pytest.raises(BrokerUnreachable, match="no broker publishes at"):
            TopCommand(target=str(run_dir), timeout_s=AT_ONCE_S).execute()
    assert not is_served(run_dir)


def test_where_the_store_is_damaged_the_report_tells_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = left(tmp_path)
    (run_dir / DATABASE).write_bytes(b"this is no database")
    assert TopCommand(target=str(run_dir)).execute() == 0
    assert "the run is over (finished)" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"its store cannot be read; see its report\.json"):
        TopCommand(target=str(run_dir), json=True).execute()
    (run_dir / "report.json").unlink()
    assert read_ended(run_dir) is None


def test_top_tells_a_directory_without_a_run_from_none_at_all(tmp_path: Path) -> None:
    for folder, problem in ((tmp_path, "holds no run of a broker"), (tmp_path / "nowhere", "is no directory")):
        with pytest.raises(SettingError, match=f"target={folder}: {problem}; give a run directory or tcp://"):
            TopCommand(target=str(folder)).execute()
