"""A thread that waits in a poll is woken, once for all that it finds then."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import closing

import pytest

from boss.wake import Wake


@pytest.fixture
def wake() -> Iterator[Wake]:
    with closing(Wake()) as found:
        yield found


def is_readable(wake: Wake) -> bool:
    return bool(select.select([wake.fileno()], [], [], 0.0)[0])


def test_a_call_ends_a_poll_until_it_is_cleared(wake: Wake) -> None:
    assert not is_readable(wake)
    wake()
    assert is_readable(wake) and wake.is_set
    wake.clear()
    assert not is_readable(wake) and not wake.is_set
    wake()
    assert is_readable(wake)


def test_a_thread_that_is_woken_already_is_not_woken_again(wake: Wake) -> None:
    for _ in range(100_000):  # more than a pipe holds
        wake()
    assert os.read(wake.fileno(), 64) == b"x"


def test_a_call_while_the_pipe_is_emptied_is_not_lost(wake: Wake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls together with the one before, of which the thread has yet to look for the reason."""
    wake()
    reader = wake._reader

    class Late:
        def read(self, size: int) -> bytes | None:
            found = reader.read(size)
            wake()
            return found

    monkeypatch.setattr(wake, "_reader", Late())
    wake.clear()
    monkeypatch.undo()
    assert is_readable(wake) == wake.is_set
    wake()
    assert is_readable(wake)


def test_after_its_end_a_call_writes_nowhere() -> None:
    """Its number may be another file's by then."""
    wake = Wake()
    wake.close()
    with pytest.raises(ValueError, match="closed"):
        wake()
