"""A role's conversation with the broker: examples first, then a machine that breaks the line in every way it can.

The broker's end is the real ``Hub`` with a core that accepts everybody; the clock is moved by hand.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.effects import Admit, HelloReceived, MessageReceived
from broker.hub import Hub
from broker.rows import RunRow
from protocol.errors import ProtocolError
from protocol.messages import (
    AnyMessage,
    Credit,
    Envelope,
    EpochEnd,
    EpochResult,
    Goodbye,
    Heartbeat,
    Hello,
    LossReport,
    OffPlanReport,
    Reject,
    Welcome,
)
from protocol.session import (
    ClientSession,
    Deliver,
    Lost,
    Opened,
    Refused,
    SessionEffect,
    SessionState,
    SessionTimes,
    Transmit,
)
from protocol.settings import RunSettings
from protocol.stream import Stream, ValueReport

HELLO = Hello(role="boss", name="boss-0", incarnation="first", dataset_id="d", n=9)
TIMES = SessionTimes(heartbeat_s=1.0, silence_s=3.0, hello_s=0.2)


def report(step: int, values: int = 2) -> LossReport:
    return LossReport(step=step, through=step, rank=0, losses=np.full(values, step, np.float32))


def result(epoch: int) -> EpochResult:
    return EpochResult(
        epoch=epoch,
        step=0,
        metric_name="accuracy",
        metric_value=0.5,
        boss_instances=0,
        train_s=0.0,
        exposed_wait_s=0.0,
        wall_s=0.0,
    )


def welcome(stream: str = "one", ack: int = 0) -> Envelope:
    return Envelope(seq=0, span=1, ack=ack, message=Welcome(run_id="run", stream=stream, settings=RunSettings()))


def numbered(seq: int, ack: int = 0) -> Envelope:
    return Envelope(seq=seq, span=1, ack=ack, message=EpochEnd(epoch=seq, after_step=seq))


def bare(message: AnyMessage, ack: int = 0) -> Envelope:
    return Envelope(seq=0, span=1, ack=ack, message=message)


def sent(effects: list[SessionEffect]) -> list[AnyMessage]:
    return [e.envelope.message for e in effects if isinstance(e, Transmit)]


def numbers(effects: list[SessionEffect]) -> list[int]:
    return [e.envelope.seq for e in effects if isinstance(e, Transmit)]


@pytest.fixture
def session() -> ClientSession:
    """Seeking, and nothing said yet."""
    return ClientSession(HELLO, TIMES, Stream(values_limit=6))


@pytest.fixture
def open_session(session: ClientSession) -> ClientSession:
    """Welcomed at time 0."""
    session.tick(0.0)
    session.receive(welcome(), 0.0)
    return session


# Examples


def test_hello_is_repeated_until_somebody_answers(session: ClientSession) -> None:
    said = [bool(session.tick(now)) for now in (0.0, 0.1, 0.2, 0.3, 0.4)]
    assert said == [True, False, True, False, True]


def test_a_welcome_opens_the_conversation_and_sends_what_had_to_wait(session: ClientSession) -> None:
    session.tick(0.0)
    assert session.submit(report(0), 0.0) == []
    opened, *again = session.receive(welcome(), 0.1)
    assert isinstance(opened, Opened) and opened.fresh
    assert numbers(again) == [1]


def test_what_is_newest_only_is_not_kept_for_an_absent_broker(session: ClientSession) -> None:
    session.submit(Credit(limit=4), 0.0)
    assert sent(session.receive(welcome(), 0.1)) == []


def test_after_a_reconnect_only_what_is_uncommitted_is_sent_again(open_session: ClientSession) -> None:
    for step in range(3):
        open_session.submit(report(step), 0.0)
    open_session.receive(bare(Reject(code="resume", reason="messages are missing")), 0.1)
    effects = open_session.receive(welcome(ack=2), 0.2)
    assert isinstance(effects[0], Opened) and not effects[0].fresh
    assert numbers(effects) == [3]


def test_a_hello_names_the_stream_and_what_of_it_was_heard(open_session: ClientSession) -> None:
    open_session.receive(numbered(1), 0.1)
    (effect,) = open_session.receive(bare(Reject(code="resume", reason="")), 0.2)
    assert isinstance(effect, Transmit)
    assert isinstance(effect.envelope.message, Hello) and effect.envelope.message.stream == "one"
    assert effect.envelope.ack == 1


def test_a_restarted_broker_counts_from_one_again(open_session: ClientSession) -> None:
    open_session.receive(numbered(1), 0.1)
    open_session.receive(bare(Reject(code="resume", reason="say Hello first")), 0.2)
    (opened,) = open_session.receive(welcome("two"), 0.3)
    assert isinstance(opened, Opened) and opened.fresh
    assert open_session.receive(numbered(1), 0.4) == [Deliver(numbered(1).message)]


def test_a_second_welcome_of_the_same_stream_changes_nothing(open_session: ClientSession) -> None:
    """The broker was busy and answers two Hellos at once; the messages behind the first Welcome count once."""
    open_session.receive(numbered(1), 0.1)
    open_session.submit(report(0), 0.1)
    assert open_session.receive(welcome(), 0.2) == []
    assert open_session.receive(numbered(1), 0.2) == []
    assert open_session.receive(numbered(2), 0.2) == [Deliver(numbered(2).message)]


def test_a_second_welcome_of_another_stream_is_followed(open_session: ClientSession) -> None:
    """The broker has started a new stream in between: its first message is no repetition of the old stream's."""
    open_session.receive(numbered(1), 0.1)
    (opened,) = open_session.receive(welcome("two"), 0.2)
    assert isinstance(opened, Opened) and opened.fresh
    assert open_session.receive(numbered(1), 0.2) == [Deliver(numbered(1).message)]


def test_a_gap_makes_it_say_hello_at_once(open_session: ClientSession) -> None:
    effects = open_session.receive(numbered(2), 1.0)
    assert isinstance(sent(effects)[0], Hello)
    assert open_session.receive(numbered(1), 1.0) == [], "before the Welcome nothing is taken"


def test_gap_after_gap_makes_no_storm_of_hellos(open_session: ClientSession) -> None:
    """A broker that knows nothing of this stream answers each Welcome's backlog with "resume"."""
    said = 0
    for millisecond in range(1000):
        now = 1.0 + millisecond / 1000
        open_session.receive(welcome(), now)
        effects = open_session.receive(bare(Reject(code="resume", reason="messages are missing")), now)
        said += sum(isinstance(m, Hello) for m in sent([*effects, *open_session.tick(now)]))
    assert 4 <= said <= 6, "one in hello_s, 0.2 s"


def test_a_sign_of_life_that_crosses_the_farewell_makes_nobody_join_again(open_session: ClientSession) -> None:
    """The broker has forgotten who has left, so it answers a heartbeat of theirs as it answers a stranger's."""
    open_session.submit(report(0), 0.1)
    (goodbye,) = numbers(open_session.submit(Goodbye(reason="finished"), 0.1))
    stranger = bare(Reject(code="resume", reason="say Hello first"))
    assert open_session.receive(bare(Heartbeat(seq=0), ack=goodbye), 0.2) == []
    assert open_session.receive(stranger, 0.2) == [] and open_session.state is SessionState.OPEN


def test_a_goodbye_that_is_not_committed_is_said_again(open_session: ClientSession) -> None:
    open_session.submit(report(0), 0.1)
    (goodbye,) = numbers(open_session.submit(Goodbye(reason="finished"), 0.1))
    assert open_session.receive(bare(Heartbeat(seq=0), ack=goodbye - 1), 0.2) == []
    (hello,) = sent(open_session.receive(bare(Reject(code="resume", reason="messages are missing")), 0.3))
    assert isinstance(hello, Hello)
    assert goodbye in numbers(open_session.receive(welcome(ack=goodbye - 1), 0.4))


def test_a_boss_that_finds_another_run_waits_for_its_own(open_session: ClientSession) -> None:
    """Somebody started another broker on the port: it must get nothing of this run, and the training goes on."""
    open_session.tick(3.0)
    assert open_session.hello.run_id == "run"
    answer = Reject(code="elsewhere", reason="run other is at this address", remedy="start that of run")
    assert open_session.receive(bare(answer), 3.1) == []
    assert open_session.state is SessionState.SEEKING and "run other" in open_session.asked_to_wait
    assert open_session.seeking_since == 3.0, "and it gives up in the end"
    (opened,) = open_session.receive(welcome("two"), 4.0)
    assert isinstance(opened, Opened)


def test_an_assistant_that_finds_another_run_begins_anew(session: ClientSession) -> None:
    """What it has learned is of no use there, but it can serve any run."""
    session.update_hello(role="assistant")
    session.tick(0.0)
    (refused,) = session.receive(bare(Reject(code="elsewhere", reason="another run")), 0.1)
    assert isinstance(refused, Refused)


def test_a_lost_tail_shows_in_the_next_heartbeat(open_session: ClientSession) -> None:
    assert isinstance(sent(open_session.receive(bare(Heartbeat(seq=1)), 1.0))[0], Hello)


def test_a_heartbeat_that_matches_is_no_news(open_session: ClientSession) -> None:
    open_session.receive(numbered(1), 0.1)
    assert open_session.receive(bare(Heartbeat(seq=1)), 0.2) == []


def test_heartbeats_keep_their_pace_while_credits_are_said(open_session: ClientSession) -> None:
    """A Boss grants credit at every turn; unless heartbeats go on, nobody notices that its last report was lost."""
    beats = 0
    for tenth in range(1, 41):
        open_session.submit(Credit(limit=tenth), tenth / 10)
        open_session.receive(bare(Heartbeat(seq=0)), tenth / 10)
        beats += sum(isinstance(m, Heartbeat) for m in sent(open_session.tick(tenth / 10)))
    assert beats == 4


def test_a_heartbeat_says_what_was_sent_and_the_process_s_vitals(open_session: ClientSession) -> None:
    open_session.submit(report(0), 0.0)
    open_session.cpu_percent, open_session.rss_bytes = 12.5, 1000
    assert sent(open_session.tick(1.0)) == [Heartbeat(seq=1, cpu_percent=12.5, rss_bytes=1000)]


def test_silence_drops_the_line_and_looks_for_the_broker_again(open_session: ClientSession) -> None:
    lost, transmit = open_session.tick(3.0)
    assert lost == Lost(3.0) and isinstance(transmit, Transmit)
    assert open_session.state is SessionState.SEEKING and open_session.seeking_since == 3.0


def test_a_refusal_is_final(session: ClientSession) -> None:
    session.tick(0.0)
    reject = Reject(code="dataset", reason="another data set")
    assert session.receive(bare(reject), 0.1) == [Refused(reject)]
    assert session.receive(welcome(), 0.2) == []
    assert session.submit(report(0), 0.2) == [] and session.tick(9.0) == []


@pytest.mark.parametrize("code, since", [("wait", 50.0), ("taken", 0.0)])
def test_being_asked_for_patience_keeps_it_seeking(code: str, since: float) -> None:
    """No Boss has started the run: an Assistant waits as long as it takes. Where another process has its name, it gives
    up after its --connect-timeout-s all the same."""
    session = ClientSession(HELLO, TIMES, seeking_since=0.0)
    session.tick(0.0)
    assert session.receive(bare(Reject(code=code, reason="no Boss yet")), 50.0) == []  # type: ignore[arg-type]
    assert session.state is SessionState.SEEKING and session.seeking_since == since
    assert "no Boss yet" in session.asked_to_wait
    session.receive(welcome(), 51.0)
    assert session.asked_to_wait == ""


def test_a_closed_session_says_and_hears_nothing(open_session: ClientSession) -> None:
    open_session.close()
    assert open_session.submit(report(0), 1.0) == []
    assert open_session.receive(numbered(1), 1.0) == []
    assert open_session.tick(99.0) == []


def test_an_acknowledgement_of_something_never_sent_is_refused_and_changes_nothing(session: ClientSession) -> None:
    session.tick(0.0)
    with pytest.raises(ProtocolError, match="bad_ack"):
        session.receive(welcome(ack=5), 0.1)
    assert session.state is SessionState.SEEKING and session.broker_stream == ""


def test_the_deadline_is_when_tick_has_something_to_do(open_session: ClientSession) -> None:
    due = open_session.next_deadline(0.0)
    assert open_session.tick(due - 0.01) == []
    assert open_session.tick(due) != []


# The machine


@dataclass
class Line:
    """One connection: first in, first out, both ways. A broken one loses the last part of what is on its way."""

    name: bytes
    up: deque[Envelope] = field(default_factory=deque)
    down: deque[Envelope] = field(default_factory=deque)


@dataclass
class Durable:
    """What the broker's store holds."""

    log: list[AnyMessage] = field(default_factory=list)
    committed: int = 0


class Broker:
    """The real hub and the loop's order of doing: receive, commit, send. Its core accepts everything."""

    def __init__(self, store: Durable) -> None:
        self.store = store
        self.hub = Hub(TIMES)
        self.pending: list[AnyMessage] = []
        self.committed = store.committed
        self.out: list[tuple[bytes, Envelope]] = []
        self.told: dict[str, list[AnyMessage]] = {}
        """What was said on each stream."""

    def receive(self, line: bytes, envelope: Envelope, now: float) -> None:
        try:
            events, replies = self.hub.receive(line, envelope, now)
        except ProtocolError as error:  # as the loop does
            self.hub.count_refused(error.cause)
            return
        self.out += replies
        for event in events:
            match event:
                case HelloReceived():
                    admit = Admit(event.hello.name, 0, 0, self.committed)
                    run = RunRow(run_id="run", settings=RunSettings(), dataset_id="d", n=9)
                    self.out += self.hub.admit(line, envelope, admit, run, now=now)
                case MessageReceived(_, message, seq):
                    if seq:
                        self.committed = seq
                        self.pending.append(message)

    def say(self, message: AnyMessage, now: float) -> None:
        conversation = self.hub.by_name.get(HELLO.name)
        if conversation is not None:
            self.told.setdefault(conversation.stream_id, []).append(message)
        self.out += self.hub.send(HELLO.name, message, now)

    def commit(self, now: float) -> list[tuple[bytes, Envelope]]:
        _, beats = self.hub.tick(now)
        self.store.log += self.pending
        self.store.committed = self.committed
        self.hub.commit()
        out, self.out, self.pending = self.out + beats, [], []
        return out


class World:
    """A role, a broker, and the lines between them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.store = Durable()
        self.broker = Broker(self.store)
        self.told: dict[str, list[AnyMessage]] = self.broker.told
        self.client = ClientSession(HELLO, TIMES, Stream(values_limit=6), seeking_since=self.now, next_hello=self.now)
        self.lines = [Line(b"0")]
        self.full = False
        self.submitted: list[AnyMessage] = []
        self.heard: dict[str, list[AnyMessage]] = {}
        self.next_step = self.next_off_plan = self.next_epoch = self.next_word = 0

    @property
    def line(self) -> Line:
        return self.lines[-1]

    def apply(self, effects: list[SessionEffect]) -> None:
        for effect in effects:
            match effect:
                case Transmit(envelope):
                    if not self.full:
                        self.line.up.append(envelope)
                case Lost():
                    self.break_line(len(self.line.up), 0)
                case Opened(answer, fresh):
                    assert fresh == (answer.stream not in self.heard), "a stream begins once"
                    self.heard.setdefault(answer.stream, [])
                case Deliver(message):
                    self.heard[self.client.broker_stream].append(message)
                case Refused(reject):
                    raise AssertionError(reject)

    def submit(self, message: AnyMessage) -> None:
        if not isinstance(message, Credit):
            self.submitted.append(message)
        self.apply(self.client.submit(message, self.now))

    def break_line(self, up_kept: int, down_kept: int) -> None:
        """A new connection. Of the old one, the first part that was on its way up may still arrive, however late;
        the first part of what was on its way down was here already."""
        old = self.line
        while len(old.up) > up_kept:
            old.up.pop()
        rest = list(old.down)[:down_kept]
        old.down.clear()
        self.lines.append(Line(str(len(self.lines)).encode(), down=deque(rest)))

    def up(self, line: Line, count: int) -> None:
        for _ in range(min(count, len(line.up))):
            self.broker.receive(line.name, line.up.popleft(), self.now)

    def down(self, count: int) -> None:
        line = self.line
        for _ in range(min(count, len(line.down))):
            self.apply(self.client.receive(line.down.popleft(), self.now))
            if self.line is not line:
                return

    def commit(self) -> None:
        """The broker's commit: what it sends from now on acknowledges nothing that is not in the store."""
        full: set[bytes] = set()
        for name, envelope in self.broker.commit(self.now):
            assert envelope.ack <= self.store.committed
            if name == self.line.name and self.full:
                self.broker.hub.lose_line(name)
                full.add(name)
            elif name == self.line.name and name not in full:
                self.line.down.append(envelope)

    def restart_broker(self) -> None:
        """kill -9: what was not committed is forgotten, and so is every line."""
        for line in self.lines:
            line.up.clear()
        self.break_line(0, len(self.line.down))
        told = self.told
        self.broker = Broker(self.store)
        self.broker.told = told

    def quiesce(self) -> None:
        """No more faults: within 20 seconds all is said and heard."""
        self.full = False
        for _ in range(200):
            for line in self.lines:
                self.up(line, 1000)
            self.apply(self.client.tick(self.now))
            self.commit()
            self.down(1000)
            if self.is_quiet():
                return
            self.now += 0.1
        raise AssertionError(f"still busy: {self.client}; hub {self.broker.hub}")

    def is_quiet(self) -> bool:
        client, stream = self.client, self.client.stream
        on_the_way = any(line.up for line in self.lines) or bool(self.line.down)
        if client.state is not SessionState.OPEN or stream.bare or stream.waiting or on_the_way:
            return False
        told = self.told.get(client.broker_stream, [])
        return self.heard[client.broker_stream] == told and HELLO.name in self.broker.hub.by_name

    # What must hold

    def check(self) -> None:
        """At every moment."""
        stream = self.client.stream
        held = [len(k.message.losses) for k in stream.waiting if isinstance(k.message, ValueReport)]
        assert stream.values_held == sum(held) <= stream.values_limit
        assert not any(len(k.message.losses) for k in stream.bare if isinstance(k.message, ValueReport))
        assert self.store.committed <= self.broker.committed <= stream.last_sent == len(self.submitted)
        for name, messages in self.heard.items():
            assert messages == self.told.get(name, [])[: len(messages)], "in order, each once, none left out"
        assert set(self.broker.hub.refused) <= {"no_hello", "duplicate", "bad_ack"}, self.broker.hub.refused

    def check_everything_arrived(self) -> None:
        """Each submitted message once and in order; a merged acknowledgement may repeat the steps before it."""
        place = {keys(message)[0]: number for number, message in enumerate(self.submitted)}
        done = 0
        for message in self.store.log:
            first, last = (place[key] for key in keys(message))
            bare_range = isinstance(message, ValueReport) and not len(message.losses) and last > first
            assert first == done or (bare_range and first < done), (message, done)
            assert last >= done, (message, done)
            if isinstance(message, ValueReport) and len(message.losses):
                original = self.submitted[first]
                assert isinstance(original, ValueReport) and np.array_equal(message.losses, original.losses)
            done = last + 1
        assert done == len(self.submitted)


def keys(message: AnyMessage) -> tuple[tuple[str, int], tuple[str, int]]:
    """The first and the last thing that a message says."""
    match message:
        case LossReport():
            return ("step", message.step), ("step", message.through)
        case OffPlanReport():
            return ("off plan", message.number), ("off plan", message.through)
        case EpochResult():
            return ("epoch", message.epoch), ("epoch", message.epoch)
    raise AssertionError(message)


def report_step(world: World, values: int, _: int) -> None:
    world.submit(report(world.next_step, values % 5))
    world.next_step += 1


def report_off_plan(world: World, values: int, _: int) -> None:
    losses = np.full(values % 5, world.next_off_plan, np.float32)
    ids = np.arange(len(losses))
    world.submit(OffPlanReport(number=world.next_off_plan, through=world.next_off_plan, ids=ids, losses=losses))
    world.next_off_plan += 1


def report_epoch(world: World, _: int, __: int) -> None:
    world.submit(result(world.next_epoch))
    world.next_epoch += 1


def speak(world: World, _: int, __: int) -> None:
    world.broker.say(EpochEnd(epoch=world.next_word, after_step=0), world.now)
    world.next_word += 1


def wait(world: World, which: int, _: int) -> None:
    world.now += (0.1, 0.2, 1.0, 3.0)[which % 4]


def say_hello_again(world: World, _: int, __: int) -> None:
    if world.client.state is SessionState.SEEKING:
        world.now = max(world.now, world.client.next_hello)
        world.apply(world.client.tick(world.now))


def receive_at_the_broker(world: World, count: int, back: int) -> None:
    """What was on its way on an older line may come after the newer line's Hello."""
    world.up(world.lines[-1 - min(max(0, back - 4), len(world.lines) - 1)], count)


def fill_the_line(world: World, full: int, _: int) -> None:
    """ZeroMQ's high-water mark: messages are refused at the sender, and the line stays."""
    world.full = full % 2 == 1


# What may happen, how often, and how; two small numbers say the details.
MOVES: dict[str, tuple[int, Callable[[World, int, int], None]]] = {
    "the Boss reports a step": (6, report_step),
    "the Boss reports an off-plan step": (2, report_off_plan),
    "the Boss reports an epoch": (2, report_epoch),
    "the Boss grants credit": (4, lambda world, _, __: world.submit(Credit(limit=7))),
    "the broker speaks": (8, speak),
    "time passes": (4, wait),
    "the role looks at the clock": (6, lambda world, _, __: world.apply(world.client.tick(world.now))),
    "the role receives": (8, lambda world, count, _: world.down(count)),
    "the broker receives": (12, receive_at_the_broker),
    "the broker commits and sends": (12, lambda world, _, __: world.commit()),
    "the role says Hello again": (6, say_hello_again),
    "the line breaks": (2, lambda world, up, down: world.break_line(up, down)),
    "the line is full or free again": (1, fill_the_line),
    "the broker is killed and restarts": (1, lambda world, _, __: world.restart_broker()),
}
OFTEN = [name for name, (weight, _) in MOVES.items() for _ in range(weight)]


class LossyLine(RuleBasedStateMachine):
    """Anything may happen on the line, in any order, at any time; then all is well, and nothing may be missing."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(move=st.sampled_from(OFTEN), one=st.integers(0, 8), other=st.integers(0, 6))
    def happens(self, move: str, one: int, other: int) -> None:
        MOVES[move][1](self.world, one, other)

    @invariant()
    def what_must_hold(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.quiesce()
        self.world.check()
        self.world.check_everything_arrived()


LossyLine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestLossyLine = LossyLine.TestCase


@pytest.mark.parametrize("seed", range(8))
def test_thousands_of_long_random_walks_lose_nothing(seed: int) -> None:
    """The same moves as above without the search: what needs one walk in a thousand is found here."""
    for walk in range(seed * 1000, (seed + 1) * 1000):
        rng, world, moves = random.Random(walk), World(), []
        try:
            for _ in range(60):
                moves.append((rng.choice(OFTEN), rng.randint(0, 8), rng.randint(0, 6)))
                MOVES[moves[-1][0]][1](world, *moves[-1][1:])
                world.check()
            world.quiesce()
            world.check()
            world.check_everything_arrived()
        except Exception as error:
            raise AssertionError(f"walk {walk}: {error!r} after {moves}") from error
