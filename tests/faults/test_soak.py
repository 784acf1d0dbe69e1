"""A minute of training under random faults of all kinds, audited at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]


def test_a_minute_of_random_faults_loses_nothing_doubles_nothing_and_keeps_the_staleness_bound() -> None:
    """The benchmark ends with 1 where the audit of the run store finds anything; its table names the seed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--minutes", "1", "--seed", "3"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fault: kill" in done.stdout
