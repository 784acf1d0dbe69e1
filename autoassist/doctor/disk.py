"""Where runs and data lie: how much room, what kind of file system, and whether it does what a run store needs."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from autoassist.doctor.finding import Finding, error, ok, warning

LEAST_BYTES = 100 << 20
FEW_BYTES = 2 << 30
FEW_FILES = 1000
NETWORK = frozenset(
    [
        *("nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"),
        *("beegfs", "gpfs", "pvfs2", "orangefs", "ocfs2", "gfs2", "davfs", "virtiofs", "fuse.sshfs", "fuse.glusterfs"),
        *("fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.juicefs", "fuse.goofys"),
    ]
)
"""File systems on which locks and the WAL's shared memory cannot be relied on."""
VANISHING = frozenset({"tmpfs", "ramfs"})
OTHER = "give --run-dir a folder on a local disk"


def disk(what: str, folder: Path) -> Iterator[Finding]:
    """A folder in which files are to be made; it need not be there yet."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    name = f"{what} {folder}"
    if not os.access(there, os.W_OK | os.X_OK):
        yield error("disk", f"{name}: cannot be written", f"chmod u+w {there}, or choose another folder")
        return
    usage, nodes = psutil.disk_usage(str(there)), os.statvfs(there)
    yield judge_space(name, usage.free, nodes.f_favail if nodes.f_files else None)
    yield from judge_kind(name, kind_of(there, psutil.disk_partitions(all=True)))
    yield _try(name, there)


def judge_space(name: str, free: int, files: int | None = None) -> Finding:
    """Room for bytes, and for files; ``files`` is None where the file system does not count them."""
    words = f"{name}: {free / 1e9:.1f} GB free"
    if free < LEAST_BYTES:
        return error("disk", words, "free some, or choose a folder on another disk: a full one ends the run")
    if files is not None and files < FEW_FILES:
        return error("disk", f"{words}, room for {files} files", "remove files there: it has no inodes left")
    if free < FEW_BYTES:
        return warning("disk", words, "free some: a run of days writes some GB of losses and checkpoints")
    return ok("disk", words)


def kind_of(folder: Path, partitions: Sequence[Any]) -> str:
    """File system of a folder: that of the longest mount point above it; the last of several on one place counts."""
    path, found, longest = folder.resolve(), "", -1
    for partition in partitions:
        mount = Path(partition.mountpoint)
        if (path == mount or mount in path.parents) and len(mount.parts) >= longest:
            found, longest = partition.fstype, len(mount.parts)
    return found


def judge_kind(name: str, kind: str) -> Iterator[Finding]:
    """The run store wants a local disk."""
    if kind in NETWORK:
        told = f"{name}: {kind} is a network file system; the run store may be damaged there, or be slow"
        yield warning("disk", told, f"{OTHER}, and copy finished runs")
    elif kind in VANISHING:
        yield warning("disk", f"{name}: {kind} lies in memory and is gone with the next boot", OTHER)


def _try(name: str, folder: Path) -> Finding:
    """The very things that a run store does: a lock, a WAL, a move."""
    try:
        with tempfile.TemporaryDirectory(prefix=".autoassist-doctor-", dir=folder) as made:
            with (Path(made) / "lock").open("wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with closing(sqlite3.connect(Path(made) / "try.sqlite")) as db:
                (mode,) = db.execute("PRAGMA journal_mode=WAL").fetchone()
                db.execute("CREATE TABLE t (x)")
                db.commit()
            (Path(made) / "part").write_bytes(b"x" * 4096)
            (Path(made) / "part").replace(Path(made) / "whole")
    except (OSError, sqlite3.Error) as failure:
        return error("disk", f"{name}: a run store cannot be made there ({failure})", OTHER)
    if mode != "wal":
        return error("disk", f"{name}: SQLite has no WAL there (journal mode {mode})", OTHER)
    return ok("disk", f"{name}: locks, WAL and atomic moves work")
