"""The poll loop's own habits: when it waits for more, and how long for a line that is full."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import zmq

from broker.loop import Broker
from broker.report import write_report
from broker.sending import FULL_LINE_WAITS
from broker.settings import BrokerSettings
from broker.store_errors import OutOfFiles
from broker.waiting import GATHER_S, Alarm
from protocol.channels import Frames
from protocol.codec import encode
from protocol.messages import Credit, Envelope, EpochResult, Goodbye, Heartbeat, Hello
from protocol.report import REPORT_FILE, Report, read_report
from protocol.settings import RunSettings
from protocol.signals import StopSignal
from protocol.statistics import decode_statistics
from tests.harness.descriptors import none_left


class Line:
    """In the broker's socket's place: what has come, and how often the line is full before it takes something."""

    def __init__(self, *, full: int = 0) -> None:
        self.full = full
        self.tries = 0
        self.sent: list[Frames] = []
        self.come: list[Frames] = []

    def send(self, routing_id: bytes, frames: Sequence[bytes]) -> bool:
        self.tries += 1
        if self.tries <= self.full:
            return False
        self.sent.append(list(frames))
        return True

    def receive(self) -> tuple[bytes, Frames] | None:
        return (b"boss", self.come.pop(0)) if self.come else None


class NoStop:
    requested = False


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(BrokerSettings(run_dir=tmp_path / "run", port=0))
    yield made
    made._close()


def at(broker: Broker, monkeypatch: pytest.MonkeyPatch, line: Line) -> Line:
    for name in ("send", "receive"):
        monkeypatch.setattr(broker.channel, name, getattr(line, name))
    return line


def say(line: Line, *messages: Hello | Credit) -> None:
    line.come += [encode(Envelope(seq=0, span=1, ack=0, message=message)) for message in messages]


def hello(policy: str) -> Hello:
    run = RunSettings(policy=policy, epochs=1, batch_size=4)
    return Hello(role="boss", name="boss-0", incarnation="i", dataset_id="d", n=4000, settings=run)


def iterate(broker: Broker) -> None:
    broker._iterate(NoStop())  # type: ignore[arg-type]


def test_the_last_statistics_say_how_the_run_has_ended(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come at once, though others were published a moment ago; whoever watches knows then that it is over."""
    monkeypatch.setattr("broker.sending.HANG_UP_S", 0.0)
    line = at(broker, monkeypatch, Line())
    with zmq.Context() as context, context.socket(zmq.SUB) as watcher:
        watcher.subscribe(b"")
        watcher.connect(broker.statistics_address)
        deadline = time.monotonic() + 30.0
        while not watcher.poll(10) and time.monotonic() < deadline:
            broker._next_statistics = 0.0
            iterate(broker)
        say(line, hello("uniform"))
        iterate(broker)
        line.come.append(encode(Envelope(seq=1, span=1, ack=0, message=Goodbye(reason="finished"))))
        with StopSignal() as stop:
            assert broker.run(stop) == "finished"
        found = []
        while watcher.poll(1000):
            found.append(decode_statistics(watcher.recv()))
    assert (found[-1].ended, found[-1].peers) == ("finished", [])


def test_a_broker_that_may_open_nothing_more_goes_on_and_its_report_comes_later(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A crowd of connections, keys or not, takes its descriptors."""
    line, result = at(broker, monkeypatch, Line()), {"epoch": 0, "step": 0, "boss_instances": 0, "train_s": 0.0}
    say(line, hello("uniform"))
    iterate(broker)
    metric = EpochResult(metric_name="accuracy", metric_value=0.5, exposed_wait_s=0.0, wall_s=1.0, **result)
    line.come.append(encode(Envelope(seq=1, span=1, ack=0, message=metric)))
    with none_left():
        for _ in range(3):
            broker._next_statistics = 0.0
            iterate(broker)
    report = broker.settings.run_dir / REPORT_FILE
    assert not report.exists() and caplog.text.count("the report waits") == 1
    broker.report_file._not_before = 0.0
    iterate(broker)
    assert read_report(broker.settings.run_dir).metric is not None


def test_the_last_report_waits_until_the_lines_that_hold_all_descriptors_are_closed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = at(broker, monkeypatch, Line())
    say(line, hello("uniform"))
    iterate(broker)
    tries: list[bool] = []

    def write(run_dir: Path, report: Report) -> None:
        tries.append(broker.channel.socket.closed)
        if len(tries) == 1:
            raise OutOfFiles("too many open files")
        write_report(run_dir, report)

    monkeypatch.setattr("broker.report_file.write_report", write)
    assert broker._finish() == "stopped"
    assert tries == [True, True] and read_report(broker.settings.run_dir).status == "running"


def test_a_line_that_is_full_for_a_moment_is_waited_for(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    line = at(broker, monkeypatch, Line(full=FULL_LINE_WAITS))
    broker._out = [(b"boss", Envelope(seq=0, span=1, ack=0, message=Heartbeat(seq=i))) for i in range(3)]
    broker._transmit()
    assert len(line.sent) == 3


def test_lines_that_stay_full_cost_an_iteration_a_few_waits_altogether(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what follows on such a line waits for its next Hello, since a hole would go unnoticed."""
    line = at(broker, monkeypatch, Line(full=1000))
    beat = Envelope(seq=0, span=1, ack=0, message=Heartbeat(seq=0))
    broker._out = [(name, beat) for name in (b"one", b"one", b"another", b"one")]
    broker._transmit()
    assert line.tries == FULL_LINE_WAITS + 2


class Slept(list[float]):
    """In the place of ``time``: what was slept."""

    sleep = list.append


@pytest.mark.parametrize(
    ("has_waited", "may_gather", "slept"),
    [(False, True, [GATHER_S]), (True, True, []), (False, False, [])],
    ids=["it comes while the loop is idle", "it came during the last iteration", "the Boss lacks a batch"],
)
def test_the_loop_waits_for_more_messages_only_where_the_first_has_not_waited_yet(
    has_waited: bool, may_gather: bool, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.waiting.time", found := Slept())
    with zmq.Context() as context, context.socket(zmq.PAIR) as here, context.socket(zmq.PAIR) as there:
        here.bind("inproc://here")
        there.connect("inproc://here")
        alarm = Alarm([here])

        def say() -> int:
            there.send(b"")
            return 1000

        if has_waited:
            say()
        alarm.wait(say, may_gather=may_gather)
        assert here.poll(0)
    assert found == slept


def test_no_message_is_waited_for_while_the_boss_lacks_a_batch(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    gathers: list[bool] = []
    monkeypatch.setattr(Alarm, "wait", lambda _, timeout_ms, *, may_gather: gathers.append(may_gather))
    deterministic = RunSettings(epochs=1, batch_size=4, deterministic=True)  # no batch without an Assistant
    line = at(broker, monkeypatch, Line())
    say(line, Hello(role="boss", name="boss-0", incarnation="i", dataset_id="d", n=4000, settings=deterministic))
    say(line, Credit(limit=3))
    monkeypatch.setattr(broker, "_is_over", lambda: len(gathers) == 2)
    with StopSignal() as stop:
        broker.run(stop)
    assert gathers == [True, False]
