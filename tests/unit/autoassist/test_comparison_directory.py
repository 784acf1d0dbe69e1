"""A comparison's directory given to what shows runs: it is told what it is, and where its runs are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from autoassist import compare_runs
from autoassist.cli import main
from autoassist.monitor.watch import Listener, Watch
from autoassist.report import unfinished
from autoassist.report.unfinished import LOCK_FILE, comparison_words
from autoassist.top import TopCommand
from broker.addresses import ADDRESSES_FILE, write_addresses
from protocol.errors import SettingError

GOES_ON = "a comparison that is not finished; the same autoassist compare command goes on with it"
EACH = "its runs, each of them a directory for report, export, top and monitor"


def begun(out: Path, *names: str) -> Path:
    """A comparison that has begun these runs, the oldest first."""
    out.mkdir(exist_ok=True)
    (out / LOCK_FILE).touch()
    (out / "logs").mkdir(exist_ok=True)
    for age, name in enumerate(names):
        (out / name).mkdir()
        write_addresses(out / name, address="tcp://127.0.0.1:9", statistics="tcp://127.0.0.1:9")
        os.utime(out / name / ADDRESSES_FILE, (1e9 + age, 1e9 + age))
    return out


def test_report_says_of_an_unfinished_comparison_where_its_runs_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = begun(tmp_path / "out", "uniform-1-seed1", "autoassist-1-seed1")
    assert main(["report", str(out)]) == 2
    words = f"{GOES_ON}; {EACH}: {out}/autoassist-1-seed1, {out}/uniform-1-seed1"
    assert f"error: {out}: {words}\n" in capsys.readouterr().err


def shown_by_top(target: str) -> None:
    TopCommand(target=target).execute()


def shown_by_monitor(target: str) -> None:
    Watch(target, None, create_autospec(Listener))


@pytest.mark.parametrize("show", [shown_by_top, shown_by_monitor])
def test_top_and_monitor_say_so_too(tmp_path: Path, show: Callable[[str], None]) -> None:
    out = begun(tmp_path / "out", "uniform-1-seed1")
    with pytest.raises(SettingError) as caught:
        show(str(out))
    assert str(caught.value) == f"target={out}: {GOES_ON}; {EACH}: {out}/uniform-1-seed1"


def test_export_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = begun(tmp_path / "out", "uniform-1-seed1")
    assert main(["export", str(out)]) == 2
    assert f"{out}: {GOES_ON}; {EACH}: {out / 'uniform-1-seed1'}" in capsys.readouterr().err


def test_only_the_newest_runs_are_named(tmp_path: Path) -> None:
    out = begun(tmp_path / "out", *(f"uniform-1-seed{seed}" for seed in range(1, 8)))
    said = comparison_words(out)
    newest = ", ".join(f"{out}/uniform-1-seed{seed}" for seed in (7, 6, 5))
    assert said.endswith(f"{EACH}: {newest}, and 4 older ones")


def test_of_a_comparison_that_has_just_begun_no_run_is_named(tmp_path: Path) -> None:
    out = begun(tmp_path / "out")
    (out / "uniform-1-seed1").mkdir()  # claimed, and nothing in it to be shown
    assert comparison_words(out) == f"{GOES_ON}; none of its runs has begun yet"


def test_top_names_of_a_finished_comparison_the_command_that_shows_it(tmp_path: Path) -> None:
    out = begun(tmp_path / "out", "uniform-1-seed1")
    (out / "compare.json").write_text("{}")
    with pytest.raises(SettingError, match=f"a comparison, which autoassist report {out} shows; {EACH}"):
        TopCommand(target=str(out)).execute()


def test_any_other_directory_is_none(tmp_path: Path) -> None:
    (tmp_path / "uniform-1-seed1").mkdir()
    assert comparison_words(tmp_path) == comparison_words(tmp_path / "nowhere") == ""


def test_it_is_known_by_the_file_that_a_comparison_locks() -> None:
    assert unfinished.LOCK_FILE == compare_runs.LOCK_FILE
