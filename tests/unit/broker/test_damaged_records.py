"""A loss log that is damaged on the disk: who lacks what stood there, and who goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.effects import RecordsUnreadable, Send
from broker.loop import Broker
from broker.settings import BrokerSettings
from protocol.channels import Frames
from protocol.codec import decode, encode
from protocol.errors import StoreError
from protocol.messages import AnyMessage, Credit, Envelope, Hello, LossRecord, LossReport, RecordsDropped
from protocol.settings import RunSettings
from tests.unit.broker.world import joined, train_through

STEPS = 12


class Lines:
    """In the broker's socket's place."""

    def __init__(self) -> None:
        self.come: list[tuple[bytes, Frames]] = []
        self.sent: dict[bytes, list[AnyMessage]] = {b"boss": [], b"late": []}

    def send(self, line: bytes, frames: Frames) -> bool:
        self.sent[line].append(decode(list(frames)).message)
        return True

    def receive(self) -> tuple[bytes, Frames] | None:
        return self.come.pop(0) if self.come else None

    def say(self, line: bytes, message: AnyMessage, seq: int = 0) -> None:
        self.come.append((line, encode(Envelope(seq=seq, span=1, ack=0, message=message))))


class NoStop:
    requested = False


def trained(run_dir: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Broker, Lines]:
    """A broker whose Boss has trained some steps, with the record of one of them overwritten on the disk."""
    broker, lines = Broker(BrokerSettings(run_dir=run_dir, port=0)), Lines()
    for name in ("send", "receive"):
        monkeypatch.setattr(broker.channel, name, getattr(lines, name))
    run = RunSettings(epochs=1, batch_size=4, window_size=8, patience_s=0.01, **settings)
    hello = Hello(role="boss", name="boss-0", incarnation="i", dataset_id="d", n=400, settings=run)
    lines.say(b"boss", hello)
    for step in range(STEPS):
        lines.say(b"boss", Credit(limit=step + 4))
        turn(broker)
        lines.say(b"boss", LossReport(step=step, through=step, rank=0, losses=np.ones(4, np.float32)), seq=step + 1)
        turn(broker)
    assert broker.core.state.the_run.log_records == STEPS
    log, broker.store._recent = run_dir / "losses.log", type(broker.store._recent)()
    raw = bytearray(log.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 40] = b"\xff" * 40
    log.write_bytes(raw)
    return broker, lines


def turn(broker: Broker) -> None:
    broker._iterate(NoStop())  # type: ignore[arg-type]


def join_late(broker: Broker, lines: Lines) -> None:
    lines.say(b"late", Hello(role="assistant", name="late", incarnation="1", dataset_id="d", n=400, slots=1))
    turn(broker)
    lines.say(b"late", Credit(limit=1000, learned_through=-1))
    turn(broker)
    turn(broker)


@pytest.fixture
def closing() -> Iterator[list[Broker]]:
    made: list[Broker] = []
    yield made
    for broker in made:
        broker._close()


def test_an_assistant_that_joins_does_without_what_is_damaged_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closing: list[Broker], caplog: pytest.LogCaptureFixture
) -> None:
    broker, lines = trained(tmp_path / "run", monkeypatch)
    closing.append(broker)
    join_late(broker, lines)
    heard = [message for message in lines.sent[b"late"] if isinstance(message, LossRecord | RecordsDropped)]
    *records, dropped = heard
    assert isinstance(dropped, RecordsDropped) and dropped.through_position == STEPS
    assert 0 < len(records) < STEPS and [r.position for r in records] == list(range(len(records)))  # type: ignore[union-attr]
    assert "is damaged" in caplog.text and broker.core.state.the_run.ended == ""
    assert broker.core.state.peers["late"].counters["records_dropped"] == STEPS - len(records)


def test_in_deterministic_mode_nobody_goes_on_without_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closing: list[Broker]
) -> None:
    broker, lines = trained(tmp_path / "run", monkeypatch, policy="uniform", deterministic=True)
    closing.append(broker)
    with pytest.raises(StoreError, match="is damaged"):
        join_late(broker, lines)


def test_an_assistant_is_told_up_to_which_step_it_has_learned_what_it_can() -> None:
    world = joined(400, assistants=1, epochs=2, batch_size=4, window_size=8)
    train_through(world, 20)
    name = world.assistants[0].peer.name
    effects = world.core.handle(RecordsUnreadable(name, 5, 10), world.now)
    (told,) = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, RecordsDropped)]
    assert (told.through_position, told.learned_through) == (10, 9)


def test_one_who_has_left_meanwhile_is_told_nothing() -> None:
    world = joined(400, assistants=1, epochs=2, batch_size=4, window_size=8)
    assert not world.core.handle(RecordsUnreadable("somebody", 5, 10), world.now)
