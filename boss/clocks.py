"""The Boss's stopwatches: what was training, what was waiting, what was evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clocks:
    """Monotonic seconds. The wall clock runs from the first batch in hand to the last report, or the last wait.

    Evaluation and checkpoints are left out of it.
    """

    def __init__(self) -> None:
        self.connected_at = time.monotonic()
        self.started_at: float | None = None
        self.last_moment_at = self.connected_at
        self.exposed_wait_s = 0.0
        self.startup_wait_s = 0.0
        self.evaluation_s = 0.0
        self.checkpoint_s = 0.0
        self._paused_after = -1.0
        """Last moment before the latest pause."""
        self._paused_since_s = 0.0
        """All that was paused since then."""
        self._wall_before_s = 0.0
        self._paused_before_start_s = 0.0

    def waited(self, seconds: float) -> None:
        """The training thread had nothing to train on for so long."""
        if self.started_at is None:
            self.startup_wait_s += seconds  # a resumed Boss starts up again
        else:
            self.exposed_wait_s += seconds
            if seconds:
                self.last_moment_at = time.monotonic()

    def got_batch(self) -> None:
        """A batch is in hand."""
        if self.started_at is None:
            self.started_at = self.last_moment_at = time.monotonic()
            self._paused_before_start_s = self.evaluation_s + self.checkpoint_s

    def reported(self) -> None:
        """A step is done: up to here the wall clock has run."""
        self.last_moment_at = time.monotonic()

    def _paused(self, since: float) -> float:
        """A pause ends; gives its length. Steps are many and pauses few, so it is they that keep count."""
        seconds = time.monotonic() - since
        if self._paused_after != self.last_moment_at:
            self._paused_after, self._paused_since_s = self.last_moment_at, 0.0
        self._paused_since_s += seconds
        return seconds

    def state_dict(self) -> dict[str, float]:
        """What a resumed Boss goes on counting from."""
        names = ("exposed_wait_s", "startup_wait_s", "evaluation_s", "checkpoint_s")
        return {"wall_s": self.wall_s, **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """The inverse of ``state_dict``; the time between the two processes counts nowhere."""
        self._wall_before_s = state["wall_s"]
        for name in ("exposed_wait_s", "startup_wait_s", "evaluation_s", "checkpoint_s"):
            setattr(self, name, state[name])

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """What happens within counts as evaluation."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.evaluation_s += self._paused(start)

    @contextmanager
    def checkpoint(self) -> Iterator[None]:
        """What happens within counts as taking a checkpoint."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.checkpoint_s += self._paused(start)

    @property
    def wall_s(self) -> float:
        """See the class."""
        if self.started_at is None:
            return self._wall_before_s
        paused_s = self.evaluation_s + self.checkpoint_s - self._paused_before_start_s
        if self._paused_after == self.last_moment_at:
            paused_s -= self._paused_since_s
        return self._wall_before_s + self.last_moment_at - self.started_at - paused_s
