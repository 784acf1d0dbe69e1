"""The disk under the data cache is full: a failure, told in one line, and a run again once there is space."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import DataError, StoreError
from protocol.report import read_report
from tests.faults.test_full_disk import fill
from tests.harness.disks import make_read_only, resize, small_disk
from tests.processes.launching import errors
from tests.processes.roles import roles
from workloads import CheckedWorkload
from workloads.cache import cache_dir, file_lock
from workloads.digits import Digits


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder on a disk of 64 kB; the features of digits need 370 kB."""
    with small_disk(tmp_path / "disk", "64k") as disk:
        monkeypatch.setenv("AUTOASSIST_CACHE", str(disk / "cache"))
        yield disk / "cache"


def test_features_that_do_not_fit_are_a_failure_and_nothing_of_them_stays(cache: Path) -> None:
    """Asked through the checks that a role asks through: they do not blame the workload for the disk."""
    with pytest.raises(StoreError, match=rf"cannot write {cache}/features/.*: No space left on device; free space"):
        CheckedWorkload(Digits()).features()
    assert not list((cache / "features").iterdir())
    resize(cache.parent, "2m")
    assert Digits().features().shape == (1442, 64)


def test_a_cache_folder_or_a_lock_that_the_disk_has_no_room_for_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("AUTOASSIST_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", refuse)
        with pytest.raises(StoreError, match=f"cannot write {tmp_path}/cache: No space left.*XDG_CACHE_HOME"):
            cache_dir()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=r"cannot write .*/a\.lock: No space left"), file_lock(tmp_path / "a.lock"):
        pass


def test_a_cache_on_a_disk_that_nobody_may_write_stays_the_users_to_mend(cache: Path) -> None:
    cache.mkdir()
    make_read_only(cache.parent)
    with pytest.raises(DataError, match=r"Read-only file system; make .* writable, or set AUTOASSIST_CACHE"):
        Digits().features()


@pytest.mark.processes
def test_a_run_whose_data_does_not_fit_ends_with_code_1_and_goes_once_there_is_space(
    cache: Path, tmp_path: Path
) -> None:
    with roles() as start:
        fill(cache.parent / "ballast")
        run = start("run", "digits", "--epochs", "1", "--run-dir", str(tmp_path / "run"))
        assert run.end() == 1, run.text
        (said,) = errors(run)
        assert str(cache) in said and "No space left on device" in said and "XDG_CACHE_HOME" in said
        assert not (tmp_path / "run").exists() and "Traceback" not in run.text
        (cache.parent / "ballast").unlink()
        resize(cache.parent, "4m")
        again = start("run", "digits", "--epochs", "1", "--run-dir", str(tmp_path / "run"))
        assert again.end() == 0, again.text
    assert read_report(tmp_path / "run").status == "finished"
