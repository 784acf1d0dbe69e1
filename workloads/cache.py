"""The user's cache folder: where it lies, how files get into it whole, and who may write at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import TypeVar
from zipfile import BadZipFile

from protocol.errors import AutoAssistError, DataError, StoreError

log = logging.getLogger("autoassist.workloads")

_BLOCK_BYTES = 1 << 20
_DISK_FAILURES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""What befalls a disk; any other refusal means that the folder was a wrong choice."""
_DAMAGE = (ValueError, OSError, EOFError, LookupError, RuntimeError, BadZipFile, TokenError)
"""What numpy and sentencepiece raise over a file that is empty, cut off, or zeros in part."""

T = TypeVar("T")


def cache_dir() -> Path:
    """The folder for fetched and derived data, created when missing.

    ``AUTOASSIST_CACHE`` if set, else ``$XDG_CACHE_HOME/autoassist`` or ``~/.cache/autoassist``, on macOS
    ``~/Library/Caches/autoassist``. Read at each call, so that a test or a launcher may change the variable.

    Raises:
        DataError: the folder cannot be created.
        StoreError: the disk is full or fails.
    """
    folder = _cache_location()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _DISK_FAILURES:
            raise _unwritable(folder, error) from error
        raise DataError(
            f"cache folder {folder}: {error.strerror}; set AUTOASSIST_CACHE to a writable folder"
        ) from error
    return folder


def _cache_location() -> Path:
    if given := os.environ.get("AUTOASSIST_CACHE"):
        return Path(given).expanduser().absolute()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser().absolute() / "autoassist"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "autoassist"
    return Path.home() / ".cache" / "autoassist"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_hex(content: bytes) -> str:
    """SHA-256 of ``content`` as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and is removed otherwise.

    A reader sees the old file or the whole new one, never a part. The caller holds the lock of what he writes: the
    temporary name is fixed, so that what a killed writer left is overwritten and does not pile up. The file is not
    synced: after a power loss it may be damaged, which the check at the next load finds.

    Raises:
        StoreError: the disk is full or fails.
        DataError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` whole or not at all; see `replacing` for the errors."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def undamaged(paths: Sequence[Path], read: Callable[[], T]) -> T | None:
    """What ``read`` makes of files of the cache; None where one is missing or damaged, so that they are made again.

    Damage is said, with the files' names, and all of them are removed; the caller holds their lock. ``read`` raises
    ValueError for what can be read and still cannot be right.
    """
    if not all(path.is_file() for path in paths):
        return None
    try:
        return read()
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, and not what the file holds
            raise
        log.warning("%s: damaged (%s); making it again", ", ".join(map(str, paths)), error)
        for path in paths:
            path.unlink(missing_ok=True)
        return None


def _unwritable(path: Path, error: OSError) -> AutoAssistError:
    """A full disk is a failure, whoever has filled it; a folder that nobody may write is a mistake of the user's."""
    problem = f"data cache: cannot write {path}: {error.strerror or error}"
    if error.errno in _DISK_FAILURES:
        elsewhere = "set XDG_CACHE_HOME or AUTOASSIST_CACHE to a folder on another disk"
        return StoreError(f"{problem}; free space under {path.parent}, or {elsewhere}")
    return DataError(f"{problem}; make {path.parent} writable, or set AUTOASSIST_CACHE to a folder that is")


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold ``path`` as a lock between processes (and threads); waits for the holder, and says so once.

    The kernel frees it when the holder dies, even by kill -9, so it cannot be left behind. The empty file stays:
    removing it would let two waiters lock two different files. Price: POSIX only, and on NFS only as good as its
    ``flock``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process prepares this data; waiting for it", path.stem)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
