"""The cache folder: its place, whole files only, one builder at a time."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import DataError, StoreError
from workloads.cache import cache_dir, file_lock, replacing, sha256_of, write_atomically
from workloads.digits import Digits


def test_place_follows_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("AUTOASSIST_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "autoassist"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_dir() == tmp_path / "home" / ".cache" / "autoassist"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == tmp_path / "home" / "Library" / "Caches" / "autoassist"
    assert cache_dir().is_dir()


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOASSIST_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="set AUTOASSIST_CACHE to a writable folder"):
        cache_dir()


def test_sha256(tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    (tmp_path / "f").write_bytes(content)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "f"
    write_atomically(target, b"old")

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_bytes(b"half of the n")
            assert target.read_bytes() == b"old"
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert [path.name for path in target.parent.iterdir()] == ["f"]
    assert target.read_bytes() == b"old"


def test_a_reader_keeps_the_file_that_it_opened(tmp_path: Path) -> None:
    """An Assistant maps the features for hours; writing over them in place would change its numbers under it."""
    write_atomically(tmp_path / "f", b"old and long")
    with (tmp_path / "f").open("rb") as reader:
        write_atomically(tmp_path / "f", b"new")
        assert reader.read() == b"old and long"
    assert (tmp_path / "f").read_bytes() == b"new"


def test_what_a_killed_writer_left_does_not_pile_up(tmp_path: Path) -> None:
    (tmp_path / ".f.part").write_bytes(b"left over")
    write_atomically(tmp_path / "f", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("f", b"new")]


def test_a_full_disk_is_a_failure_that_names_file_and_remedy(tmp_path: Path) -> None:
    def fill() -> None:
        with replacing(tmp_path / "f"):
            raise OSError(28, "No space left on device")

    remedy = rf"free space under {tmp_path}, or set XDG_CACHE_HOME or AUTOASSIST_CACHE"
    with pytest.raises(StoreError, match=rf"cannot write .*/f: No space left on device; {remedy}") as caught:
        fill()
    assert caught.value.exit_code == 1


def test_lock_excludes_and_tells_who_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "autoassist.workloads")
    order: list[str] = []

    def second() -> None:
        with file_lock(tmp_path / "thing.lock"):
            order.append("second")

    thread = threading.Thread(target=second)
    with file_lock(tmp_path / "thing.lock"):
        thread.start()
        until = time.monotonic() + 30.0
        while "another process prepares" not in caplog.text and time.monotonic() < until:
            thread.join(0.01)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "thing: another process prepares this data" in caplog.text


BUILDER = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from workloads.digits import Digits
features = Digits().features()
print("SUM", float(features.sum()), features.shape, flush=True)
"""


@pytest.mark.processes
def test_boss_and_assistant_that_start_together_build_the_features_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes find the cache empty at the same time: one builds, the other waits and reads what it built."""
    expected = Digits().features()
    (lock,) = (cache / "locks").glob("digits-train-*.lock")
    monkeypatch.setenv("AUTOASSIST_CACHE", str(tmp_path / "fresh"))
    with file_lock(tmp_path / "fresh" / "locks" / lock.name):
        processes = [
            subprocess.Popen([sys.executable, "-c", BUILDER], stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        # Both stand before the lock when it opens: the race is certain, not likely.
        for process in processes:
            assert process.stdout is not None
            assert "waiting for it" in process.stdout.readline()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("building pixel features" in output for output in outputs) == 1
    sums = {output.splitlines()[-1] for output in outputs}
    assert sums == {f"SUM {float(expected.sum())} {expected.shape}"}
    (built,) = (tmp_path / "fresh" / "features").iterdir()
    assert np.array_equal(np.load(built), expected)
