"""What can befall a run store, each with its own remedy: a disk that does not take it, or files that are damaged."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from protocol.errors import StoreError

DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""SQLite's codes for a file that is malformed, none of its own, or without our tables."""
PRIMARY_CODE = 0xFF
"""The bits of SQLite's codes that are not details."""
REMEDY_OUT_OF_FILES = "close what else holds files or connections, or raise the limit (ulimit -n)"


class OutOfFiles(StoreError):
    """No file can be opened just now; what is open goes on, and the next attempt may succeed."""


def unwritable(run_dir: Path, error: Exception) -> StoreError:
    """The error of a full or failing disk, with its remedy; of a store that is found damaged while it is used; or
    OutOfFiles where this process, or the machine, may open no more."""
    if is_damage(error):
        return damaged(run_dir, error)
    if is_out_of_files(error):
        return out_of_files(run_dir, error)
    remedy = "free space, then start the broker again with the same --run-dir"
    if not run_dir.exists():
        remedy = "the directory is gone; put it back, or begin another run"
    return StoreError(f"run store {run_dir} cannot be written: {error}; {remedy}")


def is_out_of_files(error: Exception) -> bool:
    """Whether this process, or the machine, may open no more; SQLite does not say why it cannot open a file."""
    if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & PRIMARY_CODE == sqlite3.SQLITE_CANTOPEN:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as reason:
            error = reason
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def out_of_files(run_dir: Path, error: Exception) -> OutOfFiles:
    """The error of it, with its remedy."""
    what = getattr(error, "strerror", "") or os.strerror(errno.EMFILE)
    return OutOfFiles(f"run store {run_dir}: {what}; {REMEDY_OUT_OF_FILES}")


def is_damage(error: Exception) -> bool:
    """Whether SQLite has found the file itself wrong, and not what lies around it."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & PRIMARY_CODE in DAMAGE


def damaged(run_dir: Path, problem: Exception | str) -> StoreError:
    """The error of a run store that is no longer what was written, with its remedy."""
    remedy = "choose another run directory, or put a backup of all its files in its place"
    return StoreError(f"run store {run_dir} is damaged: {problem}; {remedy}")
