"""Shared by all tests: nothing may be left behind, processes start quickly, and the long modules begin first."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import psutil
import pytest
import zmq

from tests.processes.heavy_digits import Pace

SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_S = 60.0
"""How long shared memory may stay that a test beside this one has made and does not use yet."""

END_S = 60.0
"""How long a process that was told to end may take, where it has idle time alone."""
LINES_S = 10.0
"""How long a thread that is done may take to close its sockets."""

QUICK_START = Path(__file__).parent / "harness" / "quick_start"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(QUICK_START), os.environ.get("PYTHONPATH"))))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other spin, and the test beside has no core


def pytest_configure(config: pytest.Config) -> None:
    """xdist would hand out the modules by their number of tests, and those of one long test last."""
    config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that start processes first, so that no worker is left alone with a long one at the end."""
    modules = [list(tests) for _, tests in groupby(items, key=lambda item: item.nodeid.partition("::")[0])]
    modules.sort(key=lambda tests: not any(item.get_closest_marker("processes") for item in tests))
    items[:] = [item for tests in modules for item in tests]


def _children() -> set[int]:
    return {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}


@pytest.fixture(autouse=True)
def no_process_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test ends with the child processes that it began with."""
    before = _children()
    yield
    left = []
    for pid in _children() - before:
        with suppress(psutil.NoSuchProcess):  # it ends at this moment
            left.append(psutil.Process(pid))
    _, alive = psutil.wait_procs(left, timeout=END_S)
    for process in alive:
        process.kill()
    assert not alive, f"{request.node.name} left behind {[p.cmdline() for p in alive if p.is_running()]}"


def _open_lines() -> set[str]:
    """This process's sockets, listening ones too, and the descriptors by which ZeroMQ wakes its threads."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue  # the one of this very listing
        if target.startswith(("socket:", "anon_inode:[event")):
            found.add(f"{descriptor.name} → {target}")
    return found


def _shared_memory() -> set[str]:
    return {entry.name for entry in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def _left_of(shared: set[str]) -> set[str]:
    """What is there still, and not at work in a process of somebody else."""
    mine, left = {os.getpid(), *_children()}, shared & _shared_memory()
    # The names of the folder alone: a glob for the files in them fails where a process ends meanwhile.
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()] if left else []
    for pid in set(pids) - mine:
        with suppress(OSError):  # it has ended, or is another user's
            left.difference_update(re.findall(rf"{SHARED_MEMORY}/(\S+)", Path(f"/proc/{pid}/maps").read_text()))
    return left


@pytest.fixture
def pace(tmp_path_factory: pytest.TempPathFactory) -> Pace:
    """How fast the Boss of a test's run walks; beside the run's directory."""
    return Pace(tmp_path_factory.mktemp("pace"))


@pytest.fixture(scope="session", autouse=True)
def zero_copy_thread() -> None:
    """pyzmq keeps one thread, with sockets of its own, from the first message that is sent without a copy."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.bind("inproc://first")
        other.connect("inproc://first")
        one.send(bytes(1 << 20), copy=False)
        other.recv()


@pytest.fixture(autouse=True)
def no_line_or_shared_memory_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test closes its sockets, gives ports free, and leaves no shared memory (Linux)."""
    lines, shared = _open_lines(), _shared_memory()
    yield
    left, deadline = _open_lines() - lines, time.monotonic() + LINES_S
    while left and time.monotonic() < deadline:  # held by a cycle of objects, or by a thread that is about to close it
        gc.collect()
        threading.Event().wait(0.05)
        left = _open_lines() - lines
    assert not left, f"{request.node.name} left open {sorted(left)}"
    new, deadline = _left_of(_shared_memory() - shared), time.monotonic() + SHARED_MEMORY_S
    while new and time.monotonic() < deadline:  # of a test that runs beside this one, and is about to use it
        threading.Event().wait(0.2)
        new = _left_of(new)
    assert not new, f"{request.node.name} left {sorted(new)} in {SHARED_MEMORY}"
