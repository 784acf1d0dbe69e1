"""Ctrl-C at bad moments: it never takes long, and pressed again it takes no time."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from protocol.report import read_report
from tests.processes.launching import errors, write_workload
from tests.processes.roles import Role, roles

pytestmark = pytest.mark.processes
DRAIN = ("--drain-s", "500")
SOON_S = 60.0
"""Far less than the roles of these runs have to end in order."""


def interrupt(run: Role) -> None:
    """Ctrl-C."""
    run.process.send_signal(signal.SIGINT)


def test_before_the_first_step_ctrl_c_waits_for_nobody_and_keeps_nothing(tmp_path: Path) -> None:
    """A Boss that still loads its data has nothing to save, and hears no signal for long."""
    source = write_workload(
        tmp_path,
        "boss",
        "if role == 'boss' and Odd.calls == 2:\n    print('it hangs', file=sys.stderr)\n    threading.Event().wait()",
    )
    run_dir = tmp_path / "runs" / "mine"
    with roles() as start:
        run = start("run", source, "--run-dir", str(run_dir), *DRAIN)
        run.wait_for("it hangs")
        children = psutil.Process(run.process.pid).children(recursive=True)
        interrupt(run)
        assert run.end(SOON_S) == 128 + signal.SIGINT, run.text
        assert len(children) >= 3 and not any(c.is_running() and c.status() != "zombie" for c in children)
    assert "stopped before the first batch" in run.text and not errors(run)
    assert not run_dir.parent.exists()


def test_a_second_ctrl_c_kills_at_once(tmp_path: Path) -> None:
    source = write_workload(
        tmp_path,
        "losses",
        "if role == 'boss' and Odd.calls == 60:\n    print('it hangs', file=sys.stderr)\n    threading.Event().wait()",
    )
    with roles() as start:
        run = start("run", source, "--run-dir", str(tmp_path / "run"), *DRAIN)
        run.wait_for("it hangs")
        children = psutil.Process(run.process.pid).children(recursive=True)
        interrupt(run)
        run.wait_for("another signal kills at once")
        interrupt(run)
        assert run.end(SOON_S) == 128 + signal.SIGINT, run.text
        assert len(children) >= 3 and not any(c.is_running() and c.status() != "zombie" for c in children)
    assert not errors(run)


def test_a_signal_after_the_last_step_does_not_undo_a_finished_run(tmp_path: Path) -> None:
    with roles() as start:
        run = start("run", "digits", "--epochs", "2", "--run-dir", str(tmp_path))
        run.wait_for("the run is over: finished")
        interrupt(run)
        code = run.end()
    assert (read_report(tmp_path).status, code) == ("finished", 0), run.text
