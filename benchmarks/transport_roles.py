"""A Boss and an Assistant without models, in one thread: they answer whatever comes at once, through real sockets.

One cycle is a batch with all that belongs to it: the selection that it was cut from, the batch, the Boss's loss report
and credit, and the report's record at the Assistant. It is over when the batch that its credit asked for has come,
which says that the report is committed, and the Assistant has the record.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import zmq

from protocol.channels import ZmqRoleChannel
from protocol.client import ConnectSettings, RoleClient, new_incarnation
from protocol.messages import (
    AnyMessage,
    Batch,
    Credit,
    Goodbye,
    Hello,
    LossRecord,
    LossReport,
    Selection,
    Welcome,
    Window,
)
from protocol.settings import RunSettings

RECORDS_AHEAD = 512
CREDIT_EVERY = 16
"""Loss records between two credits of the Assistant, as a real one grants them."""
KEEP_EVERY = 2
"""Of a window, every second instance is kept."""
REPORTS_AT_ONCE = 8
"""Of the batches that are there, so many are reported before the next ones are looked for, with one credit."""
REST_S = 50e-6
"""Between two looks at a pace, where a poll's millisecond is too long: a Boss whose device trains leaves the core to
others too."""
GIVE_UP_S = 60.0


@dataclass
class ScriptedRoles:
    """See the module. ``pace`` is cycles per second; 0 for as fast as it goes."""

    address: str
    cycles: int
    batch_size: int
    credit: int
    pace: int = 0
    keys: str | None = None
    latencies_s: list[float] = field(default_factory=list)
    learned_through: int = -1
    granted: int = 0
    _ready: list[Batch] = field(default_factory=list)
    _sent: dict[int, float] = field(default_factory=dict)
    _halves: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.n = 1_000_000
        run = RunSettings(
            boss_instances=(self.cycles + 2 * self.credit) * self.batch_size,
            batch_size=self.batch_size,
            prefetch_batches=self.credit,
        )
        self.boss = self._client("boss", run)
        self.assistant = self._client("assistant", None)
        self.losses = np.ones(self.batch_size, dtype=np.float32)
        self.poller = zmq.Poller()
        for client in (self.boss, self.assistant):
            assert isinstance(client.channel, ZmqRoleChannel)
            self.poller.register(client.channel.socket, zmq.POLLIN)

    def _client(self, role: str, run: RunSettings | None) -> RoleClient:
        hello = Hello(
            role="boss" if run is not None else "assistant",
            name=f"{role}-0",
            incarnation=new_incarnation(),
            dataset_id="none",
            n=self.n,
            settings=run,
            slots=2,
        )
        return RoleClient(hello, ConnectSettings(broker=self.address, keys=self.keys))

    def run(self) -> float:
        """Go through all cycles; returns cycles per second, of those after the first tenth."""
        first, last = self.cycles // 10, self.cycles - 1
        start = end = 0.0
        due = time.perf_counter()
        deadline = time.monotonic() + GIVE_UP_S + (self.cycles / self.pace if self.pace else 0.0)
        self._turn(100)
        while end == 0.0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.cycles} cycles did not end at {self.address}")
            for step in self._train(due):
                now = time.perf_counter()
                start = now if step == first else start
                end = now if step == last else end
                if self.pace:
                    due = max(due, now - 0.1) + 1.0 / self.pace
            self._turn(self._wait_ms(due))
        return (last - first) / (end - start)

    def _wait_ms(self, due: float) -> int:
        """Until something comes; not longer than the next batch may wait, and not for less than a millisecond."""
        if not self._ready:
            return 100
        return int(max(0.0, due - time.perf_counter()) * 1000) if self.pace else 0

    def _train(self, due: float) -> list[int]:
        """Report the batches that are ready, one at most where there is a pace; with one credit for all."""
        if not self._ready or (self.pace and time.perf_counter() < due):
            return []
        count = 1 if self.pace else REPORTS_AT_ONCE
        batches, self._ready = self._ready[:count], self._ready[count:]
        now = time.perf_counter()
        for batch in batches:
            if batch.step < self.cycles:  # reports of several at once may go beyond the last
                self._sent[batch.step] = now
            self.boss.send(LossReport(step=batch.step, through=batch.step, rank=0, losses=self.losses))
        pulled = batches[-1].step
        self.boss.send(Credit(limit=pulled + self.credit, yielded=pulled))
        return [batch.step for batch in batches]

    def _turn(self, wait_ms: int) -> None:
        if self.pace and not wait_ms and not self.poller.poll(0):
            time.sleep(REST_S)
        if wait_ms and not self.poller.poll(wait_ms) and not self._sent:
            self.boss.send(Credit(limit=self.credit - 1, yielded=-1))  # the first one may have come too early
        for message in self.boss.poll(0.0):
            self._at_boss(message)
        for message in self.assistant.poll(0.0):
            self._at_assistant(message)

    def _at_boss(self, message: AnyMessage) -> None:
        match message:
            case Welcome():
                self.boss.send(Credit(limit=self.credit - 1, yielded=-1))
            case Batch():
                self._ready.append(message)
                self._half_done(message.step - self.credit)

    def _at_assistant(self, message: AnyMessage) -> None:
        match message:
            case Welcome():
                self._grant(0)
            case Window():
                kept = message.ids[::KEEP_EVERY]
                self.assistant.send(
                    Selection(
                        window=message.window,
                        attempt=message.attempt,
                        kept_ids=kept,
                        keep_probabilities=np.full(len(kept), 1.0 / KEEP_EVERY, dtype=np.float32),
                        learned_through=self.learned_through,
                    )
                )
            case LossRecord():
                self.learned_through = max(self.learned_through, message.learned_through)
                if message.position + 1 - self.granted >= CREDIT_EVERY:
                    self._grant(message.position + 1)
                self._half_done(message.step)

    def _grant(self, applied: int) -> None:
        self.granted = applied
        self.assistant.send(Credit(limit=applied + RECORDS_AHEAD, learned_through=self.learned_through))

    def _half_done(self, step: int) -> None:
        """Of a cycle the next batch has come, or the record; the later of the two ends it."""
        sent = self._sent.get(step)
        if sent is None:
            return
        if step in self._halves:
            del self._halves[step], self._sent[step]
            self.latencies_s.append(time.perf_counter() - sent)
        else:
            self._halves[step] = sent

    def close(self) -> None:
        """Say Goodbye and wait until it is committed."""
        for client in (self.boss, self.assistant):
            client.send(Goodbye(reason="finished"))
        for client in (self.boss, self.assistant):
            client.drain(10.0)
            client.close()
