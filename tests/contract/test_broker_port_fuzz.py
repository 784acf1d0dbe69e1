"""Whoever reaches the broker's port may send anything. A real broker stays up, counts it, and serves the honest.

Garbage comes from raw sockets; well-formed malice comes from roles that speak the protocol and lie.
"""

from __future__ import annotations

import random
import resource
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import numpy as np
import psutil
import pytest
import zmq

from protocol.client import ConnectSettings, RoleClient, new_incarnation
from protocol.codec import MAX_BODY_BYTES, MAX_FRAMES, decode, encode
from protocol.errors import PeerRefused
from protocol.messages import (
    AnyMessage,
    Batch,
    Credit,
    Envelope,
    EpochEnd,
    EpochResult,
    Goodbye,
    Heartbeat,
    Hello,
    LossRecord,
    LossReport,
    Reject,
    Selection,
    Stop,
    Welcome,
    Window,
)
from protocol.report import read_report
from protocol.session import SessionTimes
from protocol.settings import RunSettings
from tests.processes.roles import Role, Statistics, start_broker
from tests.processes.roles import roles as started_roles

pytestmark = pytest.mark.processes

DEADLINE_S = 60.0
MAX_GROWTH_BYTES = 50 << 20
BYTES_PER_CONNECTION = 20 << 10
"""What an open connection may cost; the process's limit of open files bounds how many there are."""
HUGE = 1 << 62
M = TypeVar("M")


class Site:
    """A broker process and what is known of it."""

    def __init__(self, role: Role, address: str, statistics: str, run_dir: Path) -> None:
        self.role, self.address, self.statistics, self.run_dir = role, address, statistics, run_dir
        self.process = psutil.Process(role.process.pid)
        self.before = self.rss

    @property
    def rss(self) -> int:
        return int(self.process.memory_info().rss)

    def refused(self, is_enough: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        """Refused input by cause, from the statistics socket, once there is enough of it."""
        with closing(Statistics(self.statistics)) as statistics:
            return statistics.wait_until(lambda s: is_enough(s.refused), "the refused input").refused

    def end(self) -> None:
        """SIGTERM: it leaves in order, has said nothing of a crash, and has not grown."""
        grown = self.rss - self.before
        assert grown < MAX_GROWTH_BYTES, f"grew by {grown >> 20} MiB"
        self.role.terminate()
        assert self.role.end() == 0, self.role.text
        assert "Traceback" not in self.role.text


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A broker that nobody has spoken to."""
    with started_roles() as start:
        role, address, statistics = start_broker(start, tmp_path, "--drain-s", "2")
        yield Site(role, address, statistics, tmp_path)


class Speaker:
    """A role that speaks the protocol as it should and says what the test wants."""

    def __init__(self, site: Site, hello: Hello) -> None:
        connect = ConnectSettings(broker=site.address, connect_timeout_s=DEADLINE_S)
        self.client = RoleClient(hello, connect, times=SessionTimes(hello_s=0.02))
        self.heard: list[AnyMessage] = []
        self.inbox: deque[AnyMessage] = deque()
        try:
            self.wait_for(Welcome)
        except PeerRefused:
            self.close()
            raise

    def say(self, *messages: AnyMessage) -> None:
        for message in messages:
            self.client.send(message)

    def wait_for(self, kind: type[M], is_it: Callable[[M], bool] = lambda _: True, *saying: AnyMessage) -> M:
        """The first message of a kind that was not waited past yet; ``saying`` is said again and again meanwhile."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            while self.inbox:
                self.heard.append(self.inbox.popleft())
                if isinstance(self.heard[-1], kind) and is_it(self.heard[-1]):
                    return self.heard[-1]
            self.say(*saying)
            self.inbox += self.client.poll(0.2)
        raise AssertionError(f"no {kind.__name__} within {DEADLINE_S} s; heard {self.heard[-5:]}")

    def drain(self) -> None:
        """Until the broker has committed all that was said."""
        assert self.client.drain(DEADLINE_S), "the broker did not acknowledge"

    def close(self) -> None:
        self.client.close()


def boss_hello(n: int = 4096, **changes: Any) -> Hello:
    settings = RunSettings(**{"policy": "uniform", "batch_size": 4, "epochs": 2, **changes.pop("settings", {})})
    about = {"name": "boss-0", "incarnation": new_incarnation(), "dataset_id": "d", **changes}
    return Hello(role="boss", n=n, settings=settings, **about)


def assistant_hello(n: int = 4096, **changes: Any) -> Hello:
    about = {"name": "liar", "incarnation": new_incarnation(), "dataset_id": "d", "slots": 2, **changes}
    return Hello(role="assistant", n=n, **about)


@contextmanager
def speaker(site: Site, hello: Hello) -> Iterator[Speaker]:
    with closing(Speaker(site, hello)) as made:
        yield made


def is_served(boss: Speaker) -> None:
    """The honest Boss grants credit for one more step, and gets it."""
    last = max((m.step for m in boss.heard if isinstance(m, Batch)), default=-1)
    credit = Credit(limit=last + 1, yielded=last)
    assert len(boss.wait_for(Batch, lambda b: b.step == last + 1, credit).ids) == 4


def leave(site: Site, boss: Speaker) -> None:
    """The broker is told to stop, tells the Boss, and ends as soon as the Boss has said Goodbye."""
    grown = site.rss - site.before
    assert grown < MAX_GROWTH_BYTES, f"grew by {grown >> 20} MiB"
    site.role.terminate()
    boss.wait_for(Stop)
    boss.say(Goodbye(reason="stopped"))
    assert site.role.end() == 0, site.role.text
    assert "Traceback" not in site.role.text


# Garbage


class Raw:
    """A bare DEALER: sends frames, whatever they are."""

    def __init__(self, address: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.connect(address)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def settle(self) -> None:
        """Until all that was sent has been looked at: nothing but this last Hello is refused for its version."""
        hello = assistant_hello(protocol=HUGE)
        self.send(*encode(Envelope(seq=0, span=1, ack=0, message=hello)))
        while self.socket.poll(DEADLINE_S * 1000):
            answer = decode(self.socket.recv_multipart()).message
            if isinstance(answer, Reject) and answer.code == "version":
                return
        raise AssertionError("the broker does not answer any more")

    def close(self) -> None:
        self.context.destroy(linger=0)


@contextmanager
def raw(site: Site) -> Iterator[Raw]:
    with closing(Raw(site.address)) as made:
        yield made


def body(*message: Any, seq: int = 1) -> bytes:
    return msgpack.packb([seq, 1, 0, list(message)])


def samples() -> list[list[bytes]]:
    """Valid messages of every direction; all but Hello, which would make its sender a member."""
    ids, losses = np.arange(9000), np.ones(20000, np.float32)
    messages: list[AnyMessage] = [
        Credit(limit=5),
        Selection(window=1, attempt=1, kept_ids=ids[:9], keep_probabilities=losses[:9], learned_through=-1),
        Window(window=1, attempt=1, epoch=0, progress=0.5, ids=ids),
        LossReport(step=1, through=1, rank=0, losses=losses),
        LossRecord(position=0, step=0, rank=0, learned_through=0, epoch=0, ids=ids, losses=losses),
        EpochEnd(epoch=0, after_step=5, last=True),
        Heartbeat(seq=4, cpu_percent=1.0, rss_bytes=7),
        Goodbye(reason="finished", figures={"wall_s": 1.0}),
        Stop(reason="failed", detail="x" * 300),
    ]
    return [encode(Envelope(seq=1, span=1, ack=0, message=m)) for m in messages]


def damaged(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    """Flipped, cut, repeated or exchanged bytes, and frames that come or go."""
    frames = list(frames)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(frames))
        changed = bytearray(frames[place])
        at = rng.randint(0, len(changed))
        match rng.randrange(6):
            case 0 if changed:
                changed[at - 1] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                changed[at:at] = changed[: rng.randint(0, 64)]
            case 4:
                frames.insert(place, rng.randbytes(rng.randint(0, 64)))
                continue
            case _:
                changed[:] = rng.randbytes(rng.randint(0, 256))
        frames[place] = bytes(changed)
    return frames


@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_random_and_damaged_messages_are_counted_and_the_honest_are_served(site: Site, seed: int) -> None:
    rng, valid = random.Random(seed), samples()
    with speaker(site, boss_hello()) as boss, raw(site) as first, raw(site) as second:
        is_served(boss)
        site.before = site.rss
        for _ in range(600):
            first.send(*damaged(rng, rng.choice(valid)))
            second.send(*(rng.randbytes(rng.randint(0, 100)) for _ in range(rng.randint(1, 4))))
        first.settle()
        second.settle()
        is_served(boss)
        refused = site.refused(lambda r: sum(r.values()) >= 1200)
        assert {"bad_msgpack", "bad_message", "no_hello"} <= set(refused)
        is_served(boss)
        leave(site, boss)


# frames, and how the broker counts them
GARBAGE: dict[str, tuple[list[bytes], str]] = {
    "nothing": ([b""], "bad_msgpack"),
    "half a message": ([body("heartbeat", 7)[:-1]], "bad_msgpack"),
    "more than a message": ([body("heartbeat", 7) + b"more"], "bad_msgpack"),
    "too many frames": ([body("heartbeat", 7)] * (MAX_FRAMES + 1), "bad_frames"),
    "too long a body": ([bytes(MAX_BODY_BYTES + 1)], "oversized"),
    "lists in lists": ([b"\x91" * 100_000], "bad_msgpack"),
    "a million lists": ([b"\xdd" + (1 << 20).to_bytes(4, "big") + b"\x90" * (1 << 20)], "bad_msgpack"),
    "a code object": ([body("hello", msgpack.ExtType(1, b"os.system"))], "bad_msgpack"),
    "an unknown tag": ([body("exec", "import os")], "bad_message"),
    "a wrong type": ([body("heartbeat", "seven")], "bad_message"),
    "a negative step": ([body("loss_report", -1, -1, 0, ["<f4", 0, b""])], "bad_message"),
    "a name of a megabyte": ([body("hello", "boss", "x" * (1 << 20), "i", "d", 9)], "bad_message"),
    "a setting out of range": ([body("hello", "boss", "b", "i", "d", 9, "", {"batch_size": 0})], "bad_message"),
    "a step beyond all memory": ([body("hello", "boss", "b", "i", "d", 9, "", {"batch_size": 1 << 50})], "bad_message"),
    "an array of objects": ([body("loss_report", 1, 1, 0, ["|O", 1, bytes(8)])], "bad_array"),
    "an array in no frame": ([body("loss_report", 1, 1, 0, ["<f4", 1, 5])], "bad_array"),
    "no Hello before it": ([body("heartbeat", 7)], "no_hello"),
}


def test_what_is_refused_is_counted_by_its_cause_in_the_statistics(site: Site) -> None:
    times, expected = 3, dict.fromkeys((cause for _, cause in GARBAGE.values()), 0)
    with raw(site) as peer:
        for frames, cause in GARBAGE.values():
            expected[cause] += times
            for _ in range(times):
                peer.send(*frames)
        peer.settle()
    assert site.refused(lambda r: sum(r.values()) >= sum(expected.values())) == expected
    with speaker(site, boss_hello()) as boss:
        is_served(boss)
        leave(site, boss)


def test_what_is_refused_is_counted_by_whom_it_came_from(site: Site) -> None:
    """One misbehaving Assistant among many must be found."""
    with speaker(site, boss_hello()) as boss, raw(site) as stranger, raw(site) as member:
        is_served(boss)
        stranger.send(b"garbage")
        stranger.settle()
        member.send(*encode(Envelope(seq=0, span=1, ack=0, message=assistant_hello(name="the culprit"))))
        assert member.socket.poll(DEADLINE_S * 1000)
        for _ in range(3):
            member.send(b"garbage")
        with closing(Statistics(site.statistics)) as statistics:
            told = statistics.wait_until(lambda s: s.refused_from.get("the culprit", 0) >= 3, "the culprit's share")
        assert told.refused_from == {"strangers": 1, "the culprit": 3}
        is_served(boss)
        leave(site, boss)


def test_hostile_bodies_cost_a_moment_and_nothing_that_stays(site: Site) -> None:
    """The costliest bodies that get past the length limits, twenty times over."""
    pairs = b"\xdd" + (1000).to_bytes(4, "big") + b"\xa2ab" * 1000
    words = b"\xdd" + (1380).to_bytes(4, "big") + pairs * 1380
    assert MAX_BODY_BYTES * 0.95 < len(words) <= MAX_BODY_BYTES
    with speaker(site, boss_hello()) as boss, raw(site) as peer:
        is_served(boss)
        peer.send(words)
        peer.settle()
        site.before = site.rss
        for _ in range(20):  # one at a time: a queue of them would stay with malloc
            peer.send(words)
            peer.settle()
        is_served(boss)
        leave(site, boss)


def connect(site: Site) -> socket.socket:
    host, _, port = site.address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE_S)


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)


@pytest.mark.parametrize("seed", [1])
def test_garbage_on_bare_tcp_connections_harms_nobody(site: Site, seed: int) -> None:
    rng = random.Random(seed)
    site.before = site.rss
    for _ in range(200):
        with connect(site) as line:
            try:
                line.sendall(rng.choice([b"", b"GET / HTTP/1.1\r\n\r\n", GREETING, GREETING[:20]]))
                line.sendall(rng.randbytes(rng.randint(0, 4000)))
            except ConnectionError:
                continue  # the broker has had enough of it
    with speaker(site, boss_hello()) as boss:
        is_served(boss)
        leave(site, boss)


def test_connections_that_never_say_anything_do_not_keep_the_honest_out(site: Site) -> None:
    site.before = site.rss
    silent = [connect(site) for _ in range(100)]
    try:
        with speaker(site, boss_hello()) as boss:
            is_served(boss)
            leave(site, boss)
    finally:
        for line in silent:
            line.close()


def test_the_last_word_reaches_a_role_that_reads_it_a_moment_later(site: Site) -> None:
    """libzmq drops what a DEALER with ZMQ_IMMEDIATE has not read when the other end closes. Where the broker is gone
    at once, one Boss in a hundred waits ten seconds for the acknowledgement of its Goodbye."""
    with speaker(site, boss_hello()) as boss:
        is_served(boss)
        boss.say(Goodbye(reason="finished"))
        with pytest.raises(subprocess.TimeoutExpired):
            site.role.process.wait(0.3)
        boss.drain()
    assert site.role.end() == 0, site.role.text


def test_a_stranger_whose_words_make_no_message_is_told_so(site: Site) -> None:
    """A role of a later version, for one: without an answer it would look for a broker until its time is up."""
    with raw(site) as peer:
        peer.send(b"\x93\x01\x02")
        assert peer.socket.poll(DEADLINE_S * 1000)
        answer = decode(peer.socket.recv_multipart()).message
    assert isinstance(answer, Reject) and answer.code == "malformed" and "version" in answer.remedy


def test_ten_thousand_connections_that_never_say_hello_keep_nobody_out(site: Site) -> None:
    """Most say nothing at all; a thousand speak ZeroMQ and no word of ours."""
    host, port = site.address.removeprefix("tcp://").split(":")
    context = zmq.Context()
    context.setsockopt(zmq.LINGER, 0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    with ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        held.callback(context.term)
        for number in range(10_000):
            line = held.enter_context(socket.create_connection((host, int(port)), timeout=DEADLINE_S))
            if number % 2:
                line.send(b"GET / HTTP/1.1\r\n")
        for _ in range(1000):
            held.enter_context(context.socket(zmq.DEALER)).connect(site.address)
        with speaker(site, boss_hello()) as boss:
            is_served(boss)
            assert site.rss - site.before < 11_000 * BYTES_PER_CONNECTION
            site.before = site.rss
            leave(site, boss)


def test_sigterm_ends_a_broker_that_has_only_heard_garbage(site: Site) -> None:
    with raw(site) as peer:
        for _ in range(50):
            peer.send(b"garbage")
        peer.settle()
        site.end()


# A Boss that lies


def report(step: int, through: int | None = None, rank: int = 0, values: int = 0) -> LossReport:
    last = step if through is None else through
    return LossReport(step=step, through=last, rank=rank, losses=np.ones(values, np.float32))


def result(epoch: int, metric: float = 0.5, name: str = "accuracy") -> EpochResult:
    return EpochResult(
        epoch=epoch,
        step=0,
        metric_name=name,
        metric_value=metric,
        boss_instances=0,
        train_s=metric,
        exposed_wait_s=metric,
        wall_s=metric,
    )


SELECTION = Selection(
    window=0,
    attempt=1,
    kept_ids=np.arange(4),
    keep_probabilities=np.ones(4, np.float32),
    learned_through=-1,
)
BOSS_LIES: dict[str, list[AnyMessage]] = {
    "a selection": [SELECTION],
    "messages of the broker's": [
        Window(window=0, attempt=1, epoch=0, progress=0.0, ids=np.arange(4)),
        EpochEnd(epoch=0, after_step=5, last=True),
        Stop(reason="failed"),
        LossRecord(position=0, step=0, rank=0, learned_through=0, epoch=0),
    ],
    "reports of steps never cut": [report(1000), report(HUGE), report(1000, values=4)],
    "a report of all steps to come": [report(1, HUGE), report(0, HUGE, values=4)],
    "a report that ends before it begins": [report(9, 3)],
    "reports of other ranks": [report(0, rank=1), report(0, rank=HUGE, values=4)],
    "more losses than instances": [report(0, values=1_000_000)],
    "a report again and again": [report(0, values=4)] * 50,
    "credit and a pull beyond all steps": [Credit(limit=0, yielded=HUGE), Credit(limit=0, yielded=-HUGE)],
    "credit below zero": [Credit(limit=-HUGE, yielded=-HUGE)],
    "results of epochs that never were": [result(epoch) for epoch in (1, 1000, HUGE)],
    "results by the hundred": [result(epoch) for epoch in range(5, 205)],
    "results that are not numbers": [result(0, metric) for metric in (float("nan"), float("inf"), -float("inf"))],
    "a metric's name of a megabyte": [result(0, name="x" * (1 << 20))],
}


@pytest.mark.parametrize("order", [1, -1], ids=["one after the other", "the other way round"])
def test_whatever_a_boss_lies_about_it_is_served_and_the_broker_goes_on(site: Site, order: int) -> None:
    with speaker(site, boss_hello()) as boss:
        is_served(boss)
        site.before = site.rss
        for name, lies in [*BOSS_LIES.items()][::order]:
            boss.say(*lies)
            try:
                is_served(boss)
            except AssertionError as error:
                raise AssertionError(f"after {name}: {error}; the broker said {site.role.text}") from error
        site.refused(lambda _: True)
        leave(site, boss)
    written = read_report(site.run_dir)
    assert written.status == "stopped"
    assert {epoch for epoch, *_ in written.metric.history} <= {0, 1}, "a result of an epoch that never was is kept"


def test_credit_without_end_makes_the_broker_cut_no_more_than_a_bounded_number_of_steps(site: Site) -> None:
    with speaker(site, boss_hello(n=10**9)) as boss:
        is_served(boss)
        site.before = site.rss
        boss.say(Credit(limit=HUGE, yielded=0))
        with closing(Statistics(site.statistics)) as statistics:
            cut = statistics.wait_until(lambda s: s.next_step > 2, "more steps").next_step
            again = statistics.wait_until(lambda _: True, "the next statistics").next_step
        assert cut <= 5000 and again == cut, "it stops, though the credit does not"
        boss.wait_for(Batch, lambda b: b.step == 2)
        leave(site, boss)


def test_numbers_that_leap_ahead_are_the_liar_s_own_loss(site: Site) -> None:
    with speaker(site, boss_hello()) as boss, raw(site) as peer:
        is_served(boss)
        leap = encode(Envelope(seq=HUGE, span=1, ack=0, message=report(0)))
        beyond = encode(Envelope(seq=1, span=1, ack=HUGE, message=report(0)))
        span = encode(Envelope(seq=1, span=HUGE, ack=0, message=report(0)))
        unnumbered = encode(Envelope(seq=0, span=1, ack=0, message=report(0)))
        peer.send(*encode(Envelope(seq=0, span=1, ack=0, message=assistant_hello())))
        for frames in (leap, beyond, span, unnumbered):
            peer.send(*frames)
        refused = site.refused(lambda r: r.get("bad_ack", 0) + r.get("bad_seq", 0) >= 3)
        assert (refused["bad_ack"], refused["bad_seq"]) == (1, 2)
        is_served(boss)
        leave(site, boss)


STRANGERS: dict[str, Hello] = {
    "a second Boss of the rank": boss_hello(incarnation="other"),
    "a Boss of another name for the rank": boss_hello(name="boss-x"),
    "a Boss of a rank beyond the world": boss_hello(name="boss-1", rank=1),
    "a Boss of rank 2^62": boss_hello(name="boss-1", rank=HUGE),
    "a Boss of a negative rank": boss_hello(name="boss-1", rank=-1),
    "one that takes it back under another name": boss_hello(name="boss-x", restore_step=-1),
    "a Boss with other settings": boss_hello(name="boss-0", settings={"seed": 9}),
    "another number of instances": boss_hello(n=4097),
    "a negative number of instances": boss_hello(n=-HUGE),
    "another data set": boss_hello(dataset_id="e"),
    "an Assistant of another data set": assistant_hello(dataset_id="e"),
    "an Assistant by the Boss's name": assistant_hello(name="boss-0"),
    "no name": assistant_hello(name=""),
    "a protocol of the far future": assistant_hello(protocol=HUGE),
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS.keys())
def test_a_stranger_is_refused_with_a_reason_and_the_run_goes_on(site: Site, stranger: Hello) -> None:
    with speaker(site, boss_hello()) as boss:
        is_served(boss)
        with pytest.raises(PeerRefused, match=r"the broker refuses: .+"), speaker(site, stranger):
            pass
        is_served(boss)
        leave(site, boss)


def test_who_would_take_the_run_back_to_a_checkpoint_has_to_wait_while_the_boss_lives(site: Site) -> None:
    with speaker(site, boss_hello()) as boss:
        hello = boss_hello(incarnation="other", restore_step=-1)
        with closing(RoleClient(hello, ConnectSettings(broker=site.address))) as thief:
            deadline = time.monotonic() + DEADLINE_S
            for _ in range(8):  # longer than the silence after which a Boss counts as lost
                is_served(boss)
                again = time.monotonic() + 0.5
                while time.monotonic() < again:
                    thief.poll(0.05)
                    boss.inbox += boss.client.poll(0.05)
            assert time.monotonic() < deadline and not thief.is_open
            assert "already boss-0" in thief.session.asked_to_wait
        leave(site, boss)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_last_words_that_are_not_numbers_still_give_a_report(site: Site, bad: float) -> None:
    """A Boss that diverged says NaN in its figures; the run's report must be written and readable all the same."""
    names = ("reports_sent", "wall_s", "exposed_wait_s", "startup_wait_s", "evaluation_s", "report_us_p50")
    with speaker(site, boss_hello()) as boss:
        is_served(boss)
        boss.say(Goodbye(reason="finished", figures=dict.fromkeys(names, bad)))
        assert site.role.end() == 0, site.role.text
    assert read_report(site.run_dir).status == "finished"


# An Assistant that lies


def selections(site: Site, assistant: Speaker) -> list[AnyMessage]:
    """All kinds of nonsense about a window that it really holds."""
    window = assistant.wait_for(Window)
    ids, ones = window.ids, np.ones(len(window.ids), np.float32)

    def answer(kept: np.ndarray, keep: np.ndarray, **changes: Any) -> Selection:
        about = {"window": window.window, "attempt": window.attempt, "learned_through": -1, **changes}
        return Selection(kept_ids=kept, keep_probabilities=keep.astype(np.float32), **about)

    return [
        answer(ids, ones, window=HUGE),
        answer(ids, ones, attempt=HUGE),
        answer(ids, ones[:-1]),
        answer(ids, ones * np.nan),
        answer(ids, ones * 2),
        answer(ids, ones * 0),
        answer(ids[::-1].copy(), ones),
        answer(np.repeat(ids[:1], len(ids)), ones),
        answer(ids + 10**6, ones),
        answer(ids - 10**6, ones),
        answer(np.full(100_000, (1 << 63) - 1), np.ones(100_000)),
        answer(ids, ones, learned_through=HUGE),
        answer(ids, ones, learned_through=-HUGE),
        answer(ids, ones, version=HUGE, lift=float("nan"), lift_error=float("inf")),
    ]


def test_an_assistant_that_lies_never_spoils_a_batch(site: Site) -> None:
    """Every batch that the Boss gets holds IDs of the data set, each once in the epoch, with a π that is one."""
    filtered = {"policy": "autoassist", "lease_s": 0.5, "patience_s": 0.1, "batch_size": 64}
    with speaker(site, boss_hello(settings=filtered)) as boss:
        boss.say(Credit(limit=0, yielded=-1))
        with speaker(site, assistant_hello(slots=64)) as assistant:
            assistant.say(Credit(limit=HUGE, learned_through=HUGE), Credit(limit=-HUGE, learned_through=-HUGE))
            assistant.say(*selections(site, assistant), report(0), result(0), EpochEnd(epoch=0, after_step=9))
            assistant.drain()
            seen: list[int] = []
            for step in range(10):
                batch = boss.wait_for(Batch, lambda b, s=step: b.step == s, Credit(limit=step, yielded=step - 1))
                boss.say(report(step, values=64))
                seen += batch.ids.tolist()
                assert ((batch.keep_probabilities > 0) & (batch.keep_probabilities <= 1)).all()
                bound = RunSettings().staleness_bound
                learned = [s.learned_through for s in batch.segments if s.learned_through is not None]
                assert all(-1 <= ell < step and step - ell <= bound for ell in learned)
                assistant.client.poll(0.0)
            assert len(set(seen)) == len(seen) == 640 and min(seen) >= 0 and max(seen) < 4096
            site.refused(lambda _: True)
            leave(site, boss)


def test_an_assistant_that_wants_everything_and_answers_nothing_costs_little(site: Site) -> None:
    """Slots and credit without end, and never a Selection: the Boss is served unfiltered, the broker does not grow."""
    filtered = {"policy": "autoassist", "lease_s": 0.2, "patience_s": 0.05, "batch_size": 64}
    with speaker(site, boss_hello(n=10**7, settings=filtered)) as boss:
        with speaker(site, assistant_hello(n=10**7, slots=HUGE)) as assistant:
            assistant.say(Credit(limit=HUGE))
            site.before = site.rss
            for step in range(100):
                boss.wait_for(Batch, lambda b, s=step: b.step == s, Credit(limit=step, yielded=step - 1))
                boss.say(report(step, values=64))
                assistant.client.poll(0.0)
        leave(site, boss)
