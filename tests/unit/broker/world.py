"""A tiny simulated world around the broker's core: a clock that is moved by hand, Boss ranks, Assistants, a store.

Events go in by ``World.handle``. Their rows are encoded at once, committed (one by one, or in groups while
``holding``), audited, and only then are the messages delivered, as the broker's loop does it. ``crash`` throws away
what a kill -9 would.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from broker.core import RETURN_S, BrokerCore
from broker.effects import (
    Admit,
    AppendBatch,
    AppendLoss,
    Delete,
    Effect,
    Event,
    HelloReceived,
    KeepLengths,
    LengthsKept,
    MessageReceived,
    PeerLost,
    Put,
    Refuse,
    RunEnded,
    Send,
    SendRecords,
    Tick,
)
from broker.rows import decode_row, encode_row
from protocol.arrays import I64, empty_f32, empty_i64
from protocol.messages import (
    AnyMessage,
    Batch,
    Credit,
    EpochEnd,
    Goodbye,
    Hello,
    Lengths,
    LossRecord,
    LossReport,
    OffPlanReport,
    RecordsDropped,
    Return,
    Selection,
    Stop,
    Window,
)
from protocol.off_plan import draw_off_plan
from protocol.settings import RunSettings
from protocol.token_batches import I32, lengths_id
from tests.unit.broker.world_audit import Audit

PIECE = 64
"""Lengths that a simulated Boss says at once."""
CREDIT_RECORDS = 8
"""Loss records that a simulated Assistant lets come beyond those that it has applied."""


@dataclass
class Peer:
    """One process's end: numbered messages are kept until the broker says in Admit that they are committed."""

    name: str
    role: Literal["boss", "assistant"]
    rank: int = 0
    incarnation: int = 0
    connected: bool = False
    said: int = 0
    outbox: list[tuple[int, AnyMessage]] = field(default_factory=list)
    refusals: list[Refuse] = field(default_factory=list)
    stopped: str = ""

    def restart(self) -> None:
        """The process is gone; a new one has nothing."""
        self.incarnation += 1
        self.connected, self.said, self.outbox = False, 0, []


@dataclass
class SimBoss:
    """All ranks: one stream of items, which rank 0 receives and dedupes as ``boss.plan`` does."""

    settings: RunSettings
    ranks: list[Peer] = field(default_factory=list)
    items: deque[Batch | EpochEnd] = field(default_factory=deque)
    pulled: dict[int, Batch] = field(default_factory=dict)
    next_report: list[int] = field(default_factory=list)
    last_step: int = -1
    last_epoch: int = -1
    last_pulled: int = -1
    finished: bool = False
    asked: int | None = None
    """Batches that it still asks for; None where it has said no credit since it joined."""
    in_hand: int = 0
    """Batches that wait to be pulled, as the broker can know it."""
    told_again: int = -1
    """Highest step that had been cut when it joined: it is told these whatever its credit."""
    off_plan_steps: int = 0
    is_new: bool = False
    """It has not joined since its process was started."""
    to_return: list[int] = field(default_factory=list)
    returned: int = 0

    def __post_init__(self) -> None:
        world_size = self.settings.world_size
        self.ranks = [Peer(f"boss-{rank}", "boss", rank) for rank in range(world_size)]
        self.next_report = [-1] * world_size

    def receive(self, message: AnyMessage) -> None:
        match message:
            case Batch() if message.step > self.last_step:
                assert message.step <= self.told_again or self.asked, "a batch beyond the Boss's credit"
                self.asked = max(0, self.asked - 1) if self.asked is not None else None
                self.last_step = message.step
                if self._is_too_stale(message):
                    self.to_return.append(message.step)
                    self.returned += 1
                    return
                self.in_hand += 1
                self.items.append(message)
                self.next_report = [message.step if s < 0 else s for s in self.next_report]
            case EpochEnd() if message.epoch > self.last_epoch:
                if message.last and message.returns < self.returned:
                    return
                assert self.last_epoch in (-1, message.epoch - 1), "an epoch's end is missing"
                assert self.last_step in (-1, message.after_step) or self.off_plan_steps, "an epoch's end out of place"
                self.last_epoch = message.epoch
                self.items.append(message)
            case Stop():
                self.ranks[0].stopped = message.reason

    def pull(self) -> bool:
        """The training script takes one batch, and the ends of epochs before it; False where nothing is ready."""
        while self.items:
            item = self.items.popleft()
            if isinstance(item, EpochEnd):
                self.finished = self.finished or item.last
                continue
            self.last_pulled = item.step
            self.pulled[item.step] = item
            return True
        return False

    def _is_too_stale(self, batch: Batch) -> bool:
        """Off-plan steps that the broker did not know of when it cut the batch count too."""
        learned = [s.learned_through for s in batch.segments if s.learned_through is not None]
        since_cut = self.off_plan_steps - batch.off_plan_before
        return bool(learned) and batch.step - min(learned) + since_cut > self.settings.staleness_bound

    def credit(self) -> Credit:
        """As ``boss.plan`` says it: the prefetch beyond what was pulled, and a new process counts from -1."""
        self.in_hand = sum(isinstance(item, Batch) for item in self.items)
        self.asked = max(0, self.settings.prefetch_batches - self.in_hand - len(self.to_return))
        return Credit(limit=self.last_pulled + self.settings.prefetch_batches, yielded=self.last_pulled)

    def reportable(self, rank: int) -> list[int]:
        """Steps that this rank has trained and not reported, in order."""
        return [s for s in sorted(self.pulled) if s >= self.next_report[rank] >= 0]

    def restart(self) -> None:
        """All ranks are started anew, with nothing."""
        self.items.clear()
        self.pulled.clear()
        self.last_step = self.last_epoch = self.last_pulled = -1
        self.next_report = [-1] * len(self.ranks)
        self.finished, self.asked, self.to_return, self.is_new = False, None, [], True
        for peer in self.ranks:
            peer.restart()


@dataclass
class SimAssistant:
    """One Assistant. It does nothing of itself: rules make it learn, answer, lie, or fall silent."""

    peer: Peer
    windows: list[Window] = field(default_factory=list)
    answered: list[Selection] = field(default_factory=list)
    scored: list[Window] = field(default_factory=list)
    records: deque[LossRecord | RecordsDropped] = field(default_factory=deque)
    position: int = 0
    applied: int = 0
    learned_through: int = -1
    granted: int = -1
    dropped: int = 0

    def receive(self, message: AnyMessage) -> None:
        match message:
            case Window():
                self.windows.append(message)
            case LossRecord():
                assert message.position == self.position, "records come once, in order, without a hole"
                assert message.position < self.granted, "a record beyond the Assistant's credit"
                self.position += 1
                self.records.append(message)
            case RecordsDropped():
                assert message.through_position > self.position
                self.dropped += message.through_position - self.position
                self.position = message.through_position
                self.records.append(message)
            case Stop():
                self.peer.stopped = message.reason

    def learn(self, through: int = 1 << 60, most: int = 1 << 60) -> None:
        """Apply the next records: at most ``most``, none of a step after ``through``."""
        while most and self.records:
            head = self.records[0]
            if (head.learned_through if isinstance(head, RecordsDropped) else head.step) > through:
                return
            self.records.popleft()
            self.applied = head.through_position if isinstance(head, RecordsDropped) else head.position + 1
            self.learned_through = max(self.learned_through, head.learned_through)
            most -= 1

    def credit(self) -> Credit:
        self.granted = max(self.granted, self.applied + CREDIT_RECORDS)
        return Credit(limit=self.granted, learned_through=self.learned_through)

    def select(self, window: Window, /, *, rate: float = 0.5, **changes: Any) -> Selection:
        """Keep about ``rate`` of a window, by numbers that depend on nothing but what the window says."""
        self.scored.append(window)
        rng = np.random.default_rng([window.window, window.learn_through + 2, int(window.progress * 1e9)])
        keep = rng.random(len(window.ids)) < rate
        keep_probabilities = rng.uniform(0.01, 1.0, len(window.ids)).astype(np.float32)[keep]
        told: dict[str, Any] = {
            "window": window.window,
            "attempt": window.attempt,
            "kept_ids": window.ids[keep],
            "keep_probabilities": keep_probabilities,
            "learned_through": self.learned_through,
            "version": self.applied,
        }
        return Selection(**(told | changes))

    def restart(self, *, from_checkpoint: bool) -> None:
        """The process is started anew, with the state of its last checkpoint (taken just now) or with nothing."""
        self.windows.clear()
        self.answered.clear()
        self.records.clear()
        self.granted = -1
        if not from_checkpoint:
            self.applied, self.learned_through = 0, -1
        self.position = self.applied
        self.peer.restart()


class World:
    """The broker's core with everything around it. See the module."""

    def __init__(
        self,
        settings: RunSettings,
        n: int,
        *,
        assistants: int = 1,
        dataset_id: str = "data:1",
        lengths: I32 | None = None,
    ) -> None:
        self.settings, self.n, self.dataset_id, self.lengths = settings, n, dataset_id, lengths
        self.kept_lengths = np.zeros(0 if lengths is None else n, np.int32)
        self.tells_lengths = lengths is not None
        self.core = BrokerCore("run-1")
        self.now = 100.0
        self.rows: dict[tuple[str, str], bytes] = {}
        self.losses: list[LossRecord] = []
        self.finished: list[Batch] = []
        self.audit = Audit(settings, n, lengths)
        self.boss = SimBoss(settings)
        self.assistants = [SimAssistant(Peer(f"assistant-{i}", "assistant")) for i in range(assistants)]
        self.holding = False
        self.broken = False
        self.ended = ""
        self.unmet_since: float | None = None
        self._pending: list[tuple[Event, list[Effect], list[tuple[str, str, bytes | None]]]] = []
        self._outgoing: list[Effect] = []
        self._todo: deque[tuple[Peer, AnyMessage, int]] = deque()
        self._is_repeating = False
        self._hellos: defaultdict[str, deque[tuple[bool, int]]] = defaultdict(deque)
        """Whether each unanswered Hello was a fresh one, and of which process."""

    @property
    def peers(self) -> dict[str, Peer]:
        return {p.name: p for p in [*self.boss.ranks, *(a.peer for a in self.assistants)]}

    # Events

    def handle(self, event: Event) -> list[Effect]:
        """Hand an event to the core; commit and deliver at once unless ``holding``."""
        with self._noticing():
            effects = self._decide(event)
            if not self.holding:
                self._commit()
                self._transmit()
        return effects

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.broken = True
            raise

    def settle(self) -> None:
        """Commit and deliver what was held."""
        self.holding, self.unmet_since = False, None
        with self._noticing():
            self._commit()
            self._transmit()

    def _decide(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event, self.now)
        rows: list[tuple[str, str, bytes | None]] = []
        for effect in effects:
            match effect:
                case Put(kind, key, row):
                    rows.append((kind, key, encode_row(row)))
                case Delete(kind, key):
                    rows.append((kind, key, None))
        self._pending.append((event, effects, rows))
        return effects

    def _commit(self) -> None:
        """Make durable all that was decided, and audit it."""
        pending, self._pending = self._pending, []
        for event, effects, rows in pending:
            for kind, key, raw in rows:
                if raw is None:
                    self.rows.pop((kind, key), None)
                else:
                    self.rows[kind, key] = raw
            self.audit.decided(event, [(kind, decode_row(kind, raw)) for kind, _, raw in rows if raw is not None])
            for effect in effects:
                match effect:
                    case AppendLoss(record):
                        self.losses.append(record)
                        self.audit.logged(record)
                    case AppendBatch(batch):
                        self.finished.append(batch)
                        self.audit.finished(batch)
                    case KeepLengths(start, values):
                        self.kept_lengths[start : start + len(values)] = values
                        self._outgoing.append(effect)
                    case Put() | Delete():
                        pass
                    case _:
                        self._outgoing.append(effect)
        self.audit.same_as_rebuilt(self.core, self.rows)

    def _transmit(self) -> None:
        """Deliver what was committed; then the peers say again what the broker had not committed."""
        outgoing, self._outgoing = self._outgoing, []
        for effect in outgoing:
            self._deliver(effect)
        if self.boss.to_return:
            self.give_back()
            self.grant()
        self._check_never_blocked()
        if self._is_repeating:
            return
        self._is_repeating = True
        try:
            while self._todo and not self.holding:
                peer, message, seq = self._todo.popleft()
                if peer.connected:
                    self.handle(MessageReceived(peer.name, message, seq))
        finally:
            self._is_repeating = False

    def _deliver(self, effect: Effect) -> None:
        match effect:
            case Admit(name, committed=committed):
                peer = self.peers[name]
                fresh, incarnation = self._hellos[name].popleft()
                if incarnation != peer.incarnation:
                    return  # the process that asked is gone; nobody reads its line
                peer.connected = True
                if fresh:
                    self.audit.joins(name)
                peer.outbox = [(seq, message) for seq, message in peer.outbox if seq > committed]
                self._todo.extend((peer, message, seq) for seq, message in peer.outbox)
            case Refuse(name):
                self._hellos[name].popleft()
                if name in self.peers:
                    self.peers[name].refusals.append(effect)
            case RunEnded(reason):
                self.ended = reason
            case KeepLengths(is_last=True):
                self.handle(LengthsKept(self.kept_lengths))
            case Send(name, message) if self.peers[name].connected:
                self.audit.told(name, message)
                self._owner(name).receive(message)
            case SendRecords(name, start, stop) if self.peers[name].connected:
                for record in self.losses[start:stop]:
                    self._owner(name).receive(record)

    def _owner(self, name: str) -> SimBoss | SimAssistant:
        return next((a for a in self.assistants if a.peer.name == name), self.boss)

    def hello(self, peer: Peer, *, fresh: bool = True, alive_elsewhere: bool = False, **changes: Any) -> list[Effect]:
        """A peer asks to join. A new Boss process comes with a checkpoint of what the run knows to be trained."""
        owner = self._owner(peer.name)
        told: dict[str, Any] = {
            "role": peer.role,
            "name": peer.name,
            "incarnation": f"{peer.name}/{peer.incarnation}",
            "dataset_id": self.dataset_id,
            "n": self.n,
            "settings": self.settings if peer.role == "boss" else None,
            "rank": peer.rank,
            "slots": 2 if peer.role == "assistant" else 0,
            "lengths": lengths_id(self.lengths) if peer.role == "boss" else "",
            "position": owner.position if isinstance(owner, SimAssistant) else 0,
        }
        resumes = peer is self.boss.ranks[0] and peer.incarnation > 0
        if resumes and self.core.state.run is not None:
            told["restore_step"] = self.core.state.run.log_step - 1
        if fresh and peer is self.boss.ranks[0]:
            self._boss_joins()
        self._hellos[peer.name].append((fresh, peer.incarnation))
        hello = Hello(**(told | changes))
        effects = self.handle(HelloReceived(hello, fresh=fresh, alive_elsewhere=alive_elsewhere, restored=resumes))
        if peer is self.boss.ranks[0] and self.tells_lengths and fresh:
            self.say_lengths()
        return effects

    def say_lengths(self) -> None:
        """A Boss says its lengths after its Hello, from where the broker's Welcome says."""
        assert self.lengths is not None
        run = self.core.state.run
        for start in range(run.lengths_kept if run is not None else 0, self.n, PIECE):
            values = self.lengths[start : start + PIECE].astype(np.int64)
            self.say(self.boss.ranks[0], Lengths(start=start, values=values))

    def _boss_joins(self) -> None:
        self.boss.asked = None
        run = self.core.state.run
        if run is not None:
            self.boss.told_again = run.next_step - 1
            self.boss.off_plan_steps = run.off_plan_steps if self.boss.is_new else self.boss.off_plan_steps
        self.boss.is_new = False

    def say(self, peer: Peer, message: AnyMessage) -> list[Effect]:
        """A peer says something; a numbered message is kept while nobody listens, any other is lost."""
        seq = 0
        if not isinstance(message, Credit):
            peer.said += 1
            seq = peer.said
            peer.outbox.append((seq, message))
        if not peer.connected:
            return []
        return self.handle(MessageReceived(peer.name, message, seq))

    def lose(self, peer: Peer) -> None:
        """A peer falls silent for so long that the broker gives it up."""
        if peer.connected:
            peer.connected = False
            self.handle(PeerLost(peer.name))

    def advance(self, seconds: float) -> None:
        """Let time pass, with a tick at each of the core's deadlines."""
        until = self.now + seconds
        while (deadline := self.core.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.handle(Tick())
            after = self.core.next_deadline()
            assert after is None or after > self.now, "a deadline that stays in the past would make the loop spin"
        self.now = until
        self.handle(Tick())

    # Faults of the broker

    def crash(self, lost: Literal["uncommitted", "unsent"] = "uncommitted") -> None:
        """kill -9 of the broker, before or just after the commit; a new one starts from the rows."""
        self.holding = False
        if lost == "unsent":
            with self._noticing():
                self._commit()
        self._pending, self._outgoing = [], []
        self._todo.clear()
        self._hellos.clear()
        for peer in self.peers.values():
            peer.connected = False
        self.boss.asked = None
        self.unmet_since = None
        rows = [(kind, decode_row(kind, raw)) for (kind, _), raw in self.rows.items()]
        self.core = BrokerCore.from_rows("", rows) if rows else BrokerCore("run-1")
        if rows:
            run = self.core.state.the_run
            self.core.state.lengths = self.kept_lengths if run.lengths_id and run.lengths_kept == self.n else None
            self.core.rebase_leases(self.now)

    def rejoin_all(self) -> None:
        """Everybody who is not connected says Hello again, Boss ranks first."""
        for peer in self.peers.values():
            if not peer.connected:
                self.hello(peer)

    # What must hold

    def _check_never_blocked(self) -> None:
        """A Boss that has said its credit gets its batches within the patience, and at once when it has few or
        when no Assistant is awake."""
        boss, settings, state = self.boss, self.settings, self.core.state
        listening = boss.ranks[0].connected and not self.holding and not self._todo
        over = state.run is None or state.run.cutting_done or bool(state.run.ended) or state.awaits_lengths
        if settings.deterministic or not listening or over or not boss.asked:
            self.unmet_since = None
            return
        if self.unmet_since is None:
            self.unmet_since = self.now
        assert any(not m.stalled for m in state.assistants()), "no Assistant is awake, yet the Boss waits"
        assert boss.in_hand > max(1, settings.prefetch_batches // 4), "the Boss has next to nothing, yet it waits"
        assert self.now < self.unmet_since + settings.patience_s, "the Boss waits beyond the patience"
        deadline = self.core.next_deadline()
        assert deadline is not None and deadline <= self.unmet_since + settings.patience_s

    # Whole turns, for runs without faults

    def pull(self) -> bool:
        """The Boss takes a batch for training."""
        return self.boss.pull()

    def give_back(self) -> None:
        """The Boss gives back what came, and off-plan steps had made too stale."""
        if self.boss.to_return:
            steps, self.boss.to_return = self.boss.to_return, []
            if self.boss.asked is not None:  # the broker has room for as many more, once it hears this
                self.boss.asked += len(steps)
            self.say(self.boss.ranks[0], Return(steps=steps))

    def train_off_plan(self, steps: int = 1, *, values: bool = True) -> None:
        """The Boss waits in vain for a batch and draws some by itself; several without values are told as one."""
        first = self.boss.off_plan_steps
        self.boss.off_plan_steps += steps
        for peer in self.boss.ranks:
            if not values:
                told = {"number": first, "through": first + steps - 1, "ids": empty_i64(), "losses": empty_f32()}
                self.say(peer, OffPlanReport(**told))
                continue
            for number in range(first, first + steps):
                ids = self.drawn(number, peer.rank)
                losses = np.full(len(ids), number + peer.rank / 64, np.float32)
                self.say(peer, OffPlanReport(number=number, through=number, ids=ids, losses=losses))

    def drawn(self, number: int, rank: int) -> I64:
        """What a rank trains in an off-plan step."""
        ids, counts = draw_off_plan(self.settings, self.n, number, self.lengths)
        return ids[sum(counts[:rank]) : sum(counts[: rank + 1])]

    def grant(self) -> None:
        """The Boss says how far batches may come; lost while nobody listens."""
        if self.boss.ranks[0].connected:
            self.say(self.boss.ranks[0], self.boss.credit())

    def report(self, rank: int, losses: Any = None, *, through: int | None = None) -> list[Effect]:
        """A rank reports its next step: with values, or bare acknowledgements ``through`` a later one."""
        step = self.boss.reportable(rank)[0]
        self.boss.next_report[rank] = (step if through is None else through) + 1
        values = np.zeros(0, np.float32) if losses is None else np.asarray(losses, np.float32)
        message = LossReport(step=step, through=step if through is None else through, rank=rank, losses=values)
        return self.say(self.boss.ranks[rank], message)

    def train(self, most: int = 1 << 60) -> None:
        """The Boss trains what it has, at most so many batches, and reports all that it has trained, with values."""
        while most and self.pull():
            most -= 1
        for peer in self.boss.ranks:
            for step in self.boss.reportable(peer.rank) if peer.connected else []:
                count = self.boss.pulled[step].rank_counts[peer.rank]
                self.report(peer.rank, np.linspace(step, step + 1, count))
        self.grant()

    def serve(self, assistant: SimAssistant, rate: float = 0.5, *, learns: bool = True) -> None:
        """An Assistant learns what it may and answers the windows that it has, and a few that it gets for that."""
        if not assistant.peer.connected:
            return
        if learns and not self.settings.deterministic:
            assistant.learn()
        for _ in range(len(assistant.windows) + 4):
            if not assistant.windows:
                break
            window = assistant.windows[0]
            if self.settings.deterministic:
                assistant.learn(through=window.learn_through)
            if assistant.learned_through < window.learn_through:
                break
            self.say(assistant.peer, assistant.select(assistant.windows.pop(0), rate=rate))
        self.say(assistant.peer, assistant.credit())

    def finish(self, *, rate: float = 0.5, most_rounds: int = 2000) -> None:
        """Everybody works without a fault until the Boss has heard the last epoch's end; then all say Goodbye."""
        for _ in range(most_rounds):
            for assistant in self.assistants:
                self.serve(assistant, rate)
            self.train()
            if self.boss.finished and not any(self.boss.reportable(p.rank) for p in self.boss.ranks):
                break
            self.advance(0.1)
        else:
            raise AssertionError("the run does not come to its end")
        for peer in [*self.boss.ranks, *(a.peer for a in self.assistants)]:
            if peer.connected:
                self.say(peer, Goodbye(reason="finished"))
                peer.connected = False
        if self.core.state.returning:
            self.advance(RETURN_S)
        assert self.ended == "finished"
        self.audit.complete(self.core, self.losses, self.finished)


def joined(n: int, *, assistants: int = 1, lengths: I32 | None = None, **run_settings: Any) -> World:
    """A world in which everybody has joined and every Assistant has said its credit; the Boss has not asked yet."""
    run = RunSettings(**run_settings, assistants=max(1, assistants))
    world = World(run, n, assistants=assistants, lengths=lengths)
    world.rejoin_all()
    for assistant in world.assistants:
        world.say(assistant.peer, assistant.credit())
    return world


def train_through(world: World, step: int) -> None:
    """The Boss trains and reports up to ``step``, and asks for nothing beyond it."""
    boss = world.boss
    while boss.last_pulled < step:
        limit = min(step, boss.credit().limit)
        boss.asked = limit - boss.last_step
        world.say(boss.ranks[0], Credit(limit=limit, yielded=boss.last_pulled))
        before = boss.last_pulled
        while world.pull():
            pass
        assert boss.last_pulled > before, "the Boss got nothing"
        for peer in boss.ranks:
            for trained in boss.reportable(peer.rank):
                world.report(peer.rank, np.ones(boss.pulled[trained].rank_counts[peer.rank]))
