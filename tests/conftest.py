"""Shared by all tests: nothing may be left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil
import pytest


def _children() -> set[int]:
    return {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}


@pytest.fixture(autouse=True)
def no_process_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test ends with the child processes that it began with."""
    before = _children()
    yield
    left = [psutil.Process(pid) for pid in _children() - before if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(left, timeout=10.0)
    for process in alive:
        process.kill()
    assert not alive, f"{request.node.name} left behind {[p.cmdline() for p in alive if p.is_running()]}"
