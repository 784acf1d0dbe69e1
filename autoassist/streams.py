"""The standard streams: closed before the program began, on a full disk, or read by nobody."""

from __future__ import annotations

import os
import sys


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
    try:
        os.write(sys.stdout.fileno(), b"\n")  # once more, now that its buffer has been dropped
    except OSError as full:
        mute_stdout()
        return f"{full.strerror}: standard output; send it where there is room, or to /dev/null"
    return what
