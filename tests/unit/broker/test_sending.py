"""What is said to several roles is coded once, and is on the wire as if it had been coded for each."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import Mock

import numpy as np
import pytest

from broker.hub import Outgoing
from broker.sending import transmit
from protocol.arrays import pack_array
from protocol.channels import MemoryHub
from protocol.codec import OWN_FRAME_BYTES, encode
from protocol.messages import AnyMessage, Envelope, Heartbeat, LossRecord


class Lines(MemoryHub):
    """All that is sent, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[bytes, list[bytes]]] = []

    def send(self, routing_id: bytes, frames: Sequence[bytes]) -> bool:
        self.sent.append((routing_id, list(frames)))
        return True


def record(position: int, instances: int = 3) -> LossRecord:
    ids, ones = np.arange(instances), np.ones(instances, dtype=np.float32)
    return LossRecord(
        position=position, step=position, rank=0, learned_through=position, epoch=0, ids=ids, losses=ones,
        keep_probabilities=ones,
    )  # fmt: skip


def to(line: bytes, seq: int, message: AnyMessage) -> Outgoing:
    return line, Envelope(seq=seq, span=1, ack=300 * seq, message=message)


@pytest.mark.parametrize("instances", [3, OWN_FRAME_BYTES], ids=["short", "with frames of its own"])
def test_each_role_gets_its_own_envelope_around_the_same_message(instances: int) -> None:
    one, other, beat = record(0, instances), record(1, instances), Heartbeat(seq=7)
    outgoing = [
        *(to(line, seq, one) for line, seq in [(b"a", 1), (b"b", 200), (b"c", 70_000)]),
        to(b"a", 2, other),
        to(b"a", 3, beat),
        to(b"b", 201, other),
        to(b"c", 70_001, other),
    ]
    assert transmit(lines := Lines(), outgoing) == set()
    assert lines.sent == [(line, encode(envelope)) for line, envelope in outgoing]


def test_a_record_for_many_assistants_is_coded_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Mock(wraps=pack_array)
    monkeypatch.setattr("protocol.codec.pack_array", packed)
    one = record(0)
    transmit(Lines(), [to(bytes([line]), 1, one) for line in range(9)])
    assert packed.call_count == 2 * 3, "three arrays"
