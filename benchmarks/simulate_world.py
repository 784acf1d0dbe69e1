"""A simulated run: a clock that jumps from event to event, a network, the broker's loop around its core, the roles."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from benchmarks.simulate_costs import Costs, Work, size_of
from benchmarks.simulate_roles import LightCore, RoleTimes, SimAssistant, SimBoss, Steady
from broker.core import BrokerCore
from broker.effects import AppendLoss, Effect, HelloReceived, MessageReceived, Send, SendRecords, Tick
from broker.loop import MAX_DRAIN, STATISTICS_EVERY_S
from broker.waiting import GATHER_S
from protocol.message_base import Delivery
from protocol.messages import AnyMessage, Heartbeat, Hello, LossRecord
from protocol.session import SessionTimes
from protocol.settings import RunSettings

N = 100_000_000
"""Instances: no epoch ends within a simulation."""
ENDLESS = 1 << 50
"""Instances that the Boss may train."""
SLOTS = 2
"""Windows that an Assistant takes at once, by default."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Between the broker and the roles."""

    latency_us: float = 100.0
    """One way."""

    gigabits_per_s: float = 10.0
    """Of the broker's line, for all that it sends."""


@dataclass(frozen=True, slots=True)
class Said:
    """A message on its way to the broker."""

    name: str
    message: AnyMessage
    seq: int


class Engine(Protocol):
    """The broker's loop, one iteration at a time."""

    @property
    def core(self) -> BrokerCore:
        """What decides."""

    def join(self, hello: Hello) -> list[tuple[str, AnyMessage]]:
        """A role is let in, at no cost; what is said then, such as the first windows."""

    def serve(self, heard: list[Said], now: float) -> tuple[float, list[tuple[str, AnyMessage]]]:
        """One iteration: the seconds that it takes, and what is said at its end."""


class CountedEngine:
    """The real core; the loop around it is counted and priced."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.core = BrokerCore("simulated")
        self.roles = 0
        self._log: list[LossRecord] = []
        self._next_statistics = 0.0
        self._is_quiet = False

    def join(self, hello: Hello) -> list[tuple[str, AnyMessage]]:
        """See Engine."""
        sent: list[tuple[str, AnyMessage]] = []
        self._apply(self.core.handle(HelloReceived(hello, fresh=True), 0.0), Work(0), sent)
        self.roles += 1
        return sent

    def serve(self, heard: list[Said], now: float) -> tuple[float, list[tuple[str, AnyMessage]]]:
        """See Engine."""
        work = Work(self.roles)
        sent: list[tuple[str, AnyMessage]] = []
        for said in heard:
            work.receive(said.message)
            if isinstance(said.message, Heartbeat):
                work.send(said.message)  # it is answered
                continue
            self._is_quiet = False
            self._apply(self.core.take(MessageReceived(said.name, said.message, said.seq)), work, sent)
        deadline = self.core.next_deadline()
        if not self._is_quiet or (deadline is not None and deadline <= now):
            effects = self.core.handle(Tick(), now)
            self._apply(effects, work, sent)
            self._is_quiet = not effects
        if now >= self._next_statistics:
            self._next_statistics = now + STATISTICS_EVERY_S
            work.statistics = 1
        return self.costs.of(work), sent

    def _apply(self, effects: list[Effect], work: Work, sent: list[tuple[str, AnyMessage]]) -> None:
        work.store(effects)
        for effect in effects:
            match effect:
                case AppendLoss(record):
                    self._log.append(record)
                case Send(name, message):
                    work.send(message)
                    sent.append((name, message))
                case SendRecords(name, start, stop):
                    work.reads += stop - start
                    for record in self._log[start:stop]:
                        work.send(record)
                        sent.append((name, record))


@dataclass(slots=True)
class SimBroker:
    """The broker's loop in simulated time: who is heard when, and when the thread is busy."""

    world: World
    engine: Engine
    inbox: deque[Said] = field(default_factory=deque)
    busy_s: float = 0.0
    busy_until: float = 0.0
    iterations: int = 0
    _is_called: bool = False
    _is_busy: bool = False
    _alarms: int = 0
    _line_free: float = 0.0

    def hear(self, said: Said) -> None:
        """Something has come."""
        self.inbox.append(said)
        self._call()

    def busy_s_until(self, now: float) -> float:
        """Seconds of the thread up to now."""
        return self.busy_s - max(0.0, self.busy_until - now)

    def _call(self) -> None:
        """Where the thread lies idle the next iteration begins, after a moment for what belongs together to arrive."""
        if self._is_called or self._is_busy:
            return
        self._is_called = True
        gathers = self.engine.core.state.hungry_since is None
        self.world.at(self.world.now + (GATHER_S if gathers else 0.0), self._iterate)

    def _iterate(self) -> None:
        self._is_called, self._is_busy = False, True
        heard = [self.inbox.popleft() for _ in range(min(MAX_DRAIN, len(self.inbox)))]
        self.iterations += 1
        took_s, sent = self.engine.serve(heard, self.world.now)
        self.busy_s += took_s
        self.busy_until = self.world.now + took_s
        self.world.at(self.busy_until, lambda: self._done(sent))

    def _done(self, sent: list[tuple[str, AnyMessage]]) -> None:
        self._is_busy = False
        bundles: dict[str, list[AnyMessage]] = {}
        for name, message in sent:
            bundles.setdefault(name, []).append(message)
        for name, messages in bundles.items():
            self._transmit(name, messages)
        if self.inbox:
            self._iterate()
        else:
            self._set_alarm()

    def _transmit(self, name: str, messages: list[AnyMessage]) -> None:
        network = self.world.network
        size = sum(map(size_of, messages))
        self._line_free = max(self._line_free, self.world.now) + 8 * size / (1e9 * network.gigabits_per_s)
        receive = self.world.receiver_of(name)
        self.world.at(self._line_free + network.latency_us / 1e6, lambda: receive(messages))

    def _set_alarm(self) -> None:
        """The loop wakes where the core has a deadline, though nothing comes."""
        deadline = self.engine.core.next_deadline()
        self._alarms += 1
        if deadline is not None:
            number = self._alarms
            self.world.at(max(self.world.now, deadline) + 0.001, lambda: self._alarm(number))

    def _alarm(self, number: int) -> None:
        if number == self._alarms and not self._is_busy and not self._is_called:
            self._iterate()


class World:
    """Everybody, and the clock. ``settings`` has the number of ranks; a step of one takes ``step_s``."""

    def __init__(
        self,
        settings: RunSettings,
        assistants: int,
        engine: Engine,
        *,
        step_s: float,
        times: RoleTimes,
        network: Network,
        seed: int,
    ) -> None:
        self.now = 0.0
        self.settings, self.network = settings, network
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0
        self._said: dict[str, int] = {}
        self.broker = SimBroker(self, engine)
        self.boss = SimBoss(self, self.say, settings, N, step_s=step_s, times=times, seed=seed)
        self.assistants = {
            name: SimAssistant(name, self, self.say, LightCore(settings, Steady(times.keep)), times)
            for name in (f"assistant-{i}" for i in range(assistants))
        }
        self.roles = [f"boss-{rank}" for rank in range(settings.world_size)] + list(self.assistants)
        self._welcomes = [said for name in self.roles for said in engine.join(self._hello(name))]
        self._beat_phases = np.random.default_rng([seed, 2]).random(len(self.roles)) * SessionTimes().heartbeat_s

    def _hello(self, name: str) -> Hello:
        is_boss = name.startswith("boss")
        return Hello(
            role="boss" if is_boss else "assistant",
            name=name,
            incarnation=f"{name}/0",
            dataset_id="simulated",
            n=N,
            settings=self.settings if is_boss else None,
            rank=int(name.split("-")[1]) if is_boss else 0,
            slots=0 if is_boss else SLOTS,
        )

    def at(self, time: float, call: Callable[[], None]) -> None:
        """See Clock; what is due at one moment happens in the order in which it was scheduled."""
        self._scheduled += 1
        heapq.heappush(self._events, (time, self._scheduled, call))

    def say(self, name: str, message: AnyMessage) -> None:
        """A role says something to the broker."""
        seq = 0
        if message.delivery is Delivery.RELIABLE:
            seq = self._said[name] = self._said.get(name, 0) + 1
        said = Said(name, message, seq)
        self.at(self.now + self.network.latency_us / 1e6, lambda: self.broker.hear(said))

    def receiver_of(self, name: str) -> Callable[[list[AnyMessage]], None]:
        """Who takes what the broker says to this name; ranks other than 0 are told nothing."""
        return self.assistants[name].receive if name in self.assistants else self.boss.receive

    def run(self, until: Callable[[], bool]) -> None:
        """Go on until this is so."""
        if not self._scheduled:
            self._start()
        while not until():
            self.now, _, call = heapq.heappop(self._events)
            call()

    def _start(self) -> None:
        for assistant in self.assistants.values():
            assistant.start()
        for name, message in self._welcomes:
            self.receiver_of(name)([message])
        self.boss.start()
        for name, phase in zip(self.roles, self._beat_phases.tolist(), strict=True):
            self.at(phase, partial(self._beat, name))

    def _beat(self, name: str) -> None:
        self.say(name, Heartbeat(seq=self._said.get(name, 0)))
        self.at(self.now + SessionTimes().heartbeat_s, partial(self._beat, name))
