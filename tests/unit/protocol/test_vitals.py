"""What a process says that it uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.vitals import Vitals
from tests.harness.descriptors import none_left


def test_memory_is_there_after_a_refresh() -> None:
    vitals = Vitals()
    assert vitals.rss_bytes == 0
    vitals.refresh()
    assert vitals.rss_bytes > 1 << 20


def test_without_a_descriptor_to_read_them_by_the_last_ones_stand() -> None:
    """A crowd of connections has taken all of them; the role that speaks of its memory must not end for it."""
    vitals = Vitals()
    vitals.refresh()
    before = vitals.rss_bytes
    with none_left():
        with pytest.raises(OSError, match="Too many open files"):
            Path("/proc/self/stat").read_text()
        vitals.refresh()
    assert vitals.rss_bytes == before
