"""What the person at the terminal sees: the live view, warnings above and after it, and a pipe that is closed early."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes.launching import write_workload
from tests.processes.roles import DEADLINE_S, Role

pytestmark = pytest.mark.processes
WARNING = "using the small set INSTEAD"


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Exit code and text, without colours and line ends, of a command with a terminal of 80 columns."""
    master, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "LINES": "40", "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "autoassist", *arguments]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    said = bytearray()
    try:
        while block := os.read(master, 65536):
            said += block
    except OSError:  # Linux says so that the last writer has gone
        pass
    finally:
        os.close(master)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())
    return process.wait(DEADLINE_S), " ".join(plain.split())


def test_a_warning_of_a_role_is_seen_above_the_live_view_and_once_after_the_summary(tmp_path: Path) -> None:
    """Boss and Assistant both fall back to a small set; the launcher, which had the full one, does not."""
    body = f"if role != 'run' and Odd.calls == 1:\n    logging.getLogger('autoassist.workloads').warning('{WARNING}')"
    source = write_workload(tmp_path, "fingerprint", body)
    code, text = on_a_terminal("run", source, "--epochs", "60", "--run-dir", str(tmp_path / "run"))
    assert code == 0, text
    assert "AutoAssist policy autoassist" in text, text
    assert re.search(r"policy autoassist · epoch 60/60 · step \d+ · finished", text), "the last frame is stale"
    while_it_ran, _, after = text.rpartition("report: ")
    assert while_it_ran.count(WARNING) == after.count(WARNING) == 1, text
    assert re.search(rf"warning: \[(boss|assistant)-0\] {WARNING}", after), text
    assert "test_accuracy 0." in while_it_ran and "autoassist.boss: epoch" not in text, text


def test_an_export_whose_reader_leaves_early_says_nothing(tmp_path: Path) -> None:
    run = Role("run", "digits", "--epochs", "3", "--policy", "uniform", "--run-dir", str(tmp_path))
    assert run.end() == 0, run.text
    for what in ("losses", "batches"):
        export = f"{sys.executable} -m autoassist export {tmp_path} --what {what} | head -n 1"
        done = subprocess.run(["sh", "-c", export], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
        assert done.stdout.count("\n") == 1
        assert done.stderr == ""
