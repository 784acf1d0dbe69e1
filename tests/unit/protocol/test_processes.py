"""What processes of one run are to one another."""

from __future__ import annotations

import os
import pty
import resource
import signal
import subprocess
import sys

import psutil
import pytest

from protocol.processes import ending, take_all_descriptors

LEADER = """
import fcntl, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]], process_group=0).returncode)
"""
ROLE = """
import sys
from protocol.processes import ask_nothing_of_the_terminal
ask_nothing_of_the_terminal()
try:
    open("/dev/tty").read(1)
except OSError:
    sys.exit(5)
"""
CHILD = """
import os, signal, sys
from protocol.processes import die_with_parent
die_with_parent(int(sys.argv[1]) or os.getppid(), signal.SIGKILL)
print("ready", flush=True)
signal.pause()
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "0"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_an_exit_code_is_told_in_words() -> None:
    assert ending(2) == "ended with code 2"
    assert ending(-9) == "was killed by signal 9 (SIGKILL)"
    assert ending(-250) == "was killed by signal 250"


def test_a_role_in_the_background_that_asks_the_terminal_gets_an_error_and_is_not_stopped() -> None:
    terminal, its_end = pty.openpty()
    try:
        ended = subprocess.run(
            [sys.executable, "-c", LEADER, ROLE],
            **{"stdin": its_end, "stdout": its_end, "stderr": subprocess.PIPE},
            start_new_session=True,
            timeout=120.0,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(its_end)
    assert ended.returncode == 5, ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell")
def test_a_process_dies_with_the_one_that_has_started_it() -> None:
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    psutil.wait_procs([child], timeout=120.0)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell")
def test_a_process_whose_parent_is_gone_by_now_ends_at_once() -> None:
    ended = subprocess.run([sys.executable, "-c", CHILD, "1"], capture_output=True, timeout=120.0, check=False)
    assert ended.returncode == 1 and ended.stdout == b""


def test_a_low_soft_limit_of_open_files_is_raised_to_the_hard_one() -> None:
    """1,024 is usual, where the hard one is a million: as many connections would be all of a broker's files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        take_all_descriptors()
        raised, same = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised == min(hard, 1 << 16) and same == hard
