"""What a broker tells of its run: a line where something has changed that matters, from statistics twice a second."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from broker.monitor import Watcher
from broker.rows import RunRow
from protocol.statistics import RunStatistics

LONG_S = 2.0
"""How long the Boss must lie without a ready batch until it is said that it waits."""
ALONE_S = 1.0
"""How long there must be no Assistant until it is said: one that begins anew at a checkpoint is back before."""
AGAIN_S = 60.0
"""Least time between two lines about what only grows: dropped values, refused input."""
NEAR_BOUND = 0.9
"""Share of the staleness bound from which it is said to be near, as by the alert StalenessNearBound."""
PERIOD_S = 0.5
"""Time between two statistics."""

Line = tuple[int, str]
"""Level and text."""


@dataclass(slots=True)
class Count:
    """Something that only grows, and is told now and then."""

    told: int = 0
    since_s: float = AGAIN_S

    def news(self, now: int) -> int:
        """How many more than were told, where it is time to tell them; 0 where not."""
        self.since_s += PERIOD_S
        if now <= self.told or self.since_s < AGAIN_S:
            self.told = min(self.told, now)
            return 0
        more, self.told, self.since_s = now - self.told, now, 0.0
        return more


def say_taken_back(log: logging.Logger, step: int, before: RunRow | None) -> None:
    """A Boss has resumed at a checkpoint, and the run stood as ``before`` says; -1 is before the first step."""
    place = f"the checkpoint of step {step}" if step >= 0 else "its beginning"
    lost = before.log_step - 1 - step if before is not None else 0
    if lost > 0:
        log.warning("the run is taken back to %s; %d trained steps after it are void", place, lost)
    else:
        log.info("the run is at %s, and goes on there", place)


def _epochs_between(before: int, now: int) -> str:
    """Those that were too short to be seen."""
    first, last = before + 1, now - 1
    if first > last:
        return ""
    return f", epoch {first} went by meanwhile" if first == last else f", epochs {first} to {last} went by meanwhile"


class Story:
    """Hands statistics on to ``then``, and tells what is new in them. No clock: it counts what it is shown."""

    def __init__(self, log: logging.Logger, then: Watcher | None = None) -> None:
        self._log = log
        self._then = then
        self.goes_on = False
        """Whether this broker goes on with a run that another has begun."""
        self._before = RunStatistics()
        self._has_begun = False
        self._had_assistants = False
        self._alone_s = 0.0
        self._waits_s = 0.0
        self._near_bound = False
        self._dropped = Count()
        self._refused = Count()

    def show(self, statistics: RunStatistics) -> None:
        """See Watcher."""
        if self._then is not None:
            self._then.show(statistics)
        for level, text in self.told(statistics):
            self._log.log(level, "%s", text)

    def told(self, now: RunStatistics) -> Iterator[Line]:
        """What has changed since the last call."""
        before, self._before = self._before, now
        if now.policy and not now.ended:
            yield from self._epochs(before, now)
            yield from self._assistants(before, now)
            yield from self._boss(now)
            yield from self._bound(now)
        if more := self._dropped.news(now.values_dropped):
            yield logging.WARNING, f"{more} loss values did not come: the Boss's ring of reports was full"
        refused = {cause: n for cause, n in now.refused.items() if cause != "duplicate"}
        if more := self._refused.news(sum(refused.values())):
            senders = ", ".join(sorted(now.refused_from))
            yield logging.WARNING, f"refused {more} inputs ({', '.join(sorted(refused))}) from {senders}"

    def _epochs(self, before: RunStatistics, now: RunStatistics) -> Iterator[Line]:
        if not self._has_begun:
            if any(peer.role == "boss" for peer in now.peers):
                self._has_begun = True
                goes_on = self.goes_on and now.trained_steps
                what = f"the run goes on at step {now.trained_steps}" if goes_on else "the run begins"
                yield logging.INFO, f"{what}: policy {now.policy}, {now.n} instances"
        elif now.epoch > before.epoch:
            share = now.last_epoch_kept / now.last_epoch_offered if now.last_epoch_offered else 1.0
            between = _epochs_between(before.epoch, now.epoch)
            yield logging.INFO, f"epoch {now.epoch} is being cut{between}; kept {share:.1%} of epoch {now.epoch - 1}"
        elif now.trained_steps < before.trained_steps:
            yield logging.INFO, f"the run goes on from step {now.trained_steps}"

    def _assistants(self, before: RunStatistics, now: RunStatistics) -> Iterator[Line]:
        has_some = any(peer.role == "assistant" for peer in now.peers)
        self._alone_s = 0.0 if has_some else self._alone_s + PERIOD_S
        if self._had_assistants and self._alone_s >= ALONE_S:
            self._had_assistants = False
            yield logging.WARNING, "no Assistant is left: windows pass unfiltered until one comes"
        elif has_some and not self._had_assistants:
            self._had_assistants = True
            if before.policy:
                yield logging.INFO, "an Assistant is there: windows are selected from now on"

    def _boss(self, now: RunStatistics) -> Iterator[Line]:
        is_there = any(peer.role == "boss" for peer in now.peers) and now.progress < 1.0
        waited_s = self._waits_s
        self._waits_s = waited_s + PERIOD_S if is_there and now.ready_batches <= 0 else 0.0
        if waited_s < LONG_S <= self._waits_s:
            yield logging.WARNING, "no batch lies ready at the Boss for two seconds: it waits, or is about to"
        elif waited_s >= LONG_S > self._waits_s:
            yield logging.INFO, f"batches lie ready at the Boss again, after {waited_s:.0f} s"

    def _bound(self, now: RunStatistics) -> Iterator[Line]:
        is_near = now.staleness_max is not None and now.staleness_max > NEAR_BOUND * now.staleness_bound
        if is_near and not self._near_bound:
            text = f"a batch was {now.staleness_max} steps stale, near the bound of {now.staleness_bound}"
            yield logging.WARNING, f"{text}; what exceeds it passes unfiltered"
        self._near_bound = is_near
