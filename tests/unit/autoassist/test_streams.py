"""Standard output that is closed, full or a file of its own kind: the work is done, and what is the matter is said."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoassist.cli import main
from autoassist.report.command import write_whole
from autoassist.streams import words_of
from protocol.errors import StoreError
from tests.unit.autoassist.report_runs import STEPS, write_run

ROOT = str(Path(__file__).resolve().parents[3])
NO_SPACE = "No space left on device: standard output"


def shell(words: str, cwd: Path, first: str = "") -> subprocess.CompletedProcess[str]:
    """``autoassist WORDS`` as a shell starts it, after a ``first`` command."""
    paths = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        ["sh", "-c", f'{first} exec "$0" -m autoassist {words}', sys.executable],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_streams_are_closed_does_its_work(closed: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    done = shell(f"report run {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "report.html").stat().st_size > 0


def test_what_is_printed_to_a_closed_stream_goes_into_no_file_of_the_command(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    done = shell("export run --output out.jsonl >&-", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == STEPS


@pytest.mark.parametrize("words", ["--help", "--version", "report run", "export run"])
def test_a_full_standard_output_is_named(words: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    done = shell(f"{words} >/dev/full", tmp_path)
    assert done.returncode == 1
    assert NO_SPACE in done.stderr and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_full_file_of_an_export_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    assert main(["export", str(tmp_path), "--output", "/dev/full"]) == 1
    assert "No space left on device: /dev/full" in capsys.readouterr().err


def test_a_command_that_trains_says_that_its_working_directory_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell("run digits", gone, "rmdir ../gone;")
    assert done.returncode == 2
    assert done.stderr == "error: the working directory is gone; cd to one that is there\n"


def test_of_an_error_without_a_file_nothing_is_written_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    """Somebody may read it."""
    assert words_of(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")) == "Connection reset by peer"
    assert capfd.readouterr().out == ""


def test_a_standard_output_without_a_descriptor_is_no_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert words_of(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"


def test_a_report_to_standard_output_keeps_what_is_in_the_file_that_it_goes_to(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "all").write_text("before")
    assert shell("report run --output /dev/stdout >>all", tmp_path).returncode == 0
    content = (tmp_path / "all").read_text()
    assert content.startswith("before") and "</html>" in content


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "one")
    with pytest.raises(StoreError, match="give --output a file that can be written"):
        write_whole(tmp_path / "one", b"a report")


def test_a_report_is_written_into_a_pipe_and_does_not_take_its_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, b"a report")
        assert os.read(reader, 100) == b"a report"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_report_at_a_link_replaces_the_file_behind_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"before")
    write_whole(tmp_path / "link", b"a report")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"a report"
