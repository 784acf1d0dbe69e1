"""The standard streams: closed before the program began, on a full disk, or read by nobody."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def open_closed_streams() -> None:
    """What a caller has closed (``>&-``) becomes the null device: what is printed then goes nowhere, and no file or
    socket gets the descriptor, into which somebody else's words would be written."""
    for name, descriptor, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is not None:
            continue
        found = os.open(os.devnull, os.O_RDWR)
        if found == descriptor:  # the lowest that is free; children have it too
            os.set_inheritable(found, True)
        setattr(sys, name, os.fdopen(found, mode, encoding="utf-8"))


def mute_stdout() -> None:
    """Nobody reads standard output any more (``… | head``): no reason to complain, not even at the very end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def words_of(error: OSError) -> str:
    """What is the matter, with the file it befell; standard output's own failures do not name it."""
    what = error.strerror or str(error)
    if error.filename is not None:
        return f"{what}: {error.filename}"
    if error.errno in NO_ROOM and _is_stdout_full():
        mute_stdout()
        return f"{what}: standard output; send it where there is room, or to /dev/null"
    return what


def _is_stdout_full() -> bool:
    """Tried once more: its buffer was dropped with the failure."""
    with suppress(ValueError):  # an object of somebody's own, without a descriptor
        descriptor = sys.stdout.fileno()
        try:
            os.write(descriptor, b"\n")
        except OSError as error:
            return error.errno in NO_ROOM
    return False
