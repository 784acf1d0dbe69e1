"""Small file systems of a test's own: full after some kilobytes, or read-only. They need root, and skip without."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MS_RDONLY, MS_REMOUNT, MNT_DETACH = 1, 32, 2


@contextmanager
def small_disk(mount: Path, size: str) -> Iterator[Path]:
    """A new file system of that size at ``mount``, gone afterwards."""
    mount.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(mount), b"tmpfs", 0, f"size={size}".encode()):
        pytest.skip("mounting needs root")
    try:
        yield mount
    finally:
        assert libc.umount2(bytes(mount), MNT_DETACH) == 0


def resize(mount: Path, size: str) -> None:
    """Give it another size."""
    _remount(mount, 0, f"size={size}")


def make_read_only(mount: Path) -> None:
    """From now on nobody writes there, root included."""
    _remount(mount, MS_RDONLY, "")


def _remount(mount: Path, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"tmpfs", bytes(mount), b"tmpfs", flags | MS_REMOUNT, options.encode()) == 0
