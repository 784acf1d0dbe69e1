"""What the page knows: the samples so far, and who waits for the next. Lives on the server's event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from autoassist.figures import Pair
from autoassist.monitor.looking import has_picture, png, shown
from autoassist.monitor.series import values
from protocol.messages import PreviewReply
from protocol.statistics import RunStatistics

MOST_SAMPLES = 1200
"""Ten minutes of them; of older ones every second is left out, again and again."""
MOST_PICTURES = 500
"""Pictures that are kept of earlier answers."""
RATE_S = 2.0
"""Time over which rates are told: whole windows and batches are counted, and over less a steady pace looks ragged."""
TURN_S = 1.0
"""Longest time between two words to a browser: it shows a silent broker, and a browser that is gone."""
SILENT_S = 3.0
"""Age of the latest statistics from which they are no longer shown as live: six times their period."""

Sample = tuple[int, float, list[float | None]]
"""Number, time of day in seconds since 1970, values of the curves."""


class Board:
    """The samples, with the statistics that the last was made of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._changed = asyncio.Event()
        self._latest: tuple[RunStatistics, float] | None = None
        self._recent: deque[tuple[RunStatistics, float]] = deque()
        """The latest, and those of ``RATE_S`` before, oldest first."""
        self.samples: list[Sample] = []
        self.number = 0
        """Of the next sample; never used again, so that a browser can say what it has."""
        self.beginning = 0
        """Number of the first sample of this run."""
        self.trouble = ""
        """Why nothing is heard, where that is known."""
        self.watchers = 0
        """Browsers that hear the news."""
        self._instances: dict[str, Any] = {}
        self._instances_number = -1
        self._look_trouble = ""
        self._pictures: dict[int, bytes] = {}
        self.is_closed = False

    @property
    def statistics(self) -> RunStatistics | None:
        """The latest; None before the first."""
        return self._latest[0] if self._latest is not None else None

    def show(self, statistics: RunStatistics) -> None:
        """One more; those of another run begin anew."""
        now = self._clock()
        if self._latest is not None and self._latest[0].run_id != statistics.run_id:
            self.samples, self.beginning = [], self.number
            self._instances, self._pictures = {}, {}
            self._recent.clear()
        while len(self._recent) > 1 and self._recent[0][1] < now - RATE_S:
            self._recent.popleft()
        pair = Pair(statistics, self._recent[0][0], now - self._recent[0][1]) if self._recent else Pair(statistics)
        self._recent.append((statistics, now))
        self.samples.append((self.number, round(self._wall(), 2), values(pair)))
        self.number += 1
        if len(self.samples) > MOST_SAMPLES:
            half = MOST_SAMPLES // 2
            self.samples = self.samples[:half:2] + self.samples[half:]
        self._latest, self.trouble = (statistics, now), ""
        self.wake()

    def show_instances(self, reply: PreviewReply | None, trouble: str) -> None:
        """What an Assistant has answered, if it has, and what is the matter otherwise."""
        if reply is not None:
            self._instances = shown(reply)
            before = self._pictures
            seen = [one for group in reply.groups.values() for one in group if has_picture(one)]
            told = {one.id: before.get(one.id) or png(one) for one in seen}
            # Those that were told of before may be asked for still; the oldest go first.
            both = {**{i: picture for i, picture in before.items() if i not in told}, **told}
            self._pictures = dict(list(both.items())[-MOST_PICTURES:])
        if reply is not None or trouble != self._look_trouble:
            self._instances_number = self.number
        self._look_trouble = trouble

    def picture(self, run_id: str, instance_id: int) -> bytes | None:
        """Of an instance that browsers were told of, as PNG."""
        statistics = self.statistics
        return self._pictures.get(instance_id) if statistics is not None and statistics.run_id == run_id else None

    def fail(self, why: str) -> None:
        """Nothing is heard, and this is why."""
        self.trouble = why
        self.wake()

    def wake(self) -> None:
        """Whoever waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """End what is sent to the browsers."""
        self.is_closed = True
        self.wake()

    def state(self) -> tuple[str, str]:
        """One word, and what a person reads."""
        if self._latest is None:
            return "waiting", self.trouble or "Looking for the broker …"
        statistics, heard = self._latest
        silent = self._clock() - heard
        if statistics.ended:
            return "ended", f"The run is over: {statistics.ended}."
        if silent > SILENT_S:
            why = self.trouble or "it may be starting again, or gone"
            return "silent", f"The broker has said nothing for {silent:.0f} s: {why}."
        if not statistics.policy:
            return "waiting", "The broker waits for a Boss."
        return "live", "Live."

    def news(self, since: int) -> dict[str, Any]:
        """All that a browser lacks that has the samples before number ``since``."""
        state, words = self.state()
        instances = {**self._instances, "trouble": self._look_trouble}
        return {
            "reset": since <= self.beginning,
            "samples": [sample for sample in self.samples if sample[0] >= since],
            "state": state,
            "words": words,
            "instances": instances if since <= self._instances_number else None,
            "now": msgspec.to_builtins(self.statistics) if self.statistics is not None else None,
        }

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events: all that there is, then what comes."""
        since = 0
        while not self.is_closed:
            changed = self._changed
            yield b"data: " + msgspec.json.encode(self.news(since)) + b"\n\n"
            since = self.number
            try:
                await asyncio.wait_for(changed.wait(), TURN_S)
            except TimeoutError:
                continue
