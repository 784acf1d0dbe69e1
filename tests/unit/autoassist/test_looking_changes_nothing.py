"""Who looks at a finished run leaves it as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoassist.cli import main
from broker.addresses import write_addresses
from broker.store import DATABASE, LOSS_LOG
from tests.unit.autoassist.report_runs import write_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "run")
    write_addresses(folder, address="tcp://127.0.0.1:9", statistics="tcp://127.0.0.1:9")
    return folder


@pytest.mark.parametrize(
    "words", [["export"], ["top", "--once", "--json"], ["report", "--output"]], ids=lambda words: words[0]
)
def test_a_command_that_shows_a_finished_run_leaves_no_files_in_it(
    run_dir: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run_dir.iterdir())
    name, *options = words
    output = [str(tmp_path / "page.html")] if name == "report" else []
    assert main([name, str(run_dir), *options, *output]) == 0
    assert capsys.readouterr().out
    assert sorted(run_dir.iterdir()) == before


def test_neither_does_the_report_of_a_damaged_one(run_dir: Path, tmp_path: Path) -> None:
    """Its rows are read alone."""
    (run_dir / LOSS_LOG).unlink()
    assert main(["report", str(run_dir), "--output", str(tmp_path / "page.html")]) == 0
    assert not list(run_dir.glob(f"{DATABASE}-*"))
