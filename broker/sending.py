"""How the broker's words leave: to lines that are full for a moment, and to roles that are about to hang up."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from broker.hub import Outgoing
from protocol.channels import BrokerChannel, ZmqBrokerChannel
from protocol.codec import encode, encode_around, raw_message
from protocol.messages import AnyMessage, Envelope

FULL_LINE_WAITS = 5
FULL_LINE_WAIT_S = 0.001
"""How often and how long an iteration waits for lines that are full: thousands of batches at once are made sooner than
ZeroMQ's own thread, on a busy machine, takes them over."""
HANG_UP_S = 1.0
"""Most time that roles have to close their lines after the last acknowledgement."""
HANG_UP_LOOK_MS = 10


class _Encoder:
    """Every Assistant hears every loss record: what is said to one role after the other is coded once."""

    def __init__(self) -> None:
        self._message: AnyMessage | None = None
        self._times = 0
        self._raw: msgspec.Raw | None = None

    def encode(self, envelope: Envelope) -> list[bytes]:
        """As ``protocol.codec.encode``."""
        if envelope.message is not self._message:
            self._message, self._times, self._raw = envelope.message, 0, None
        self._times += 1
        if self._times == 2:
            self._raw = raw_message(envelope.message)
        if self._raw is None:
            return encode(envelope)
        return [encode_around(envelope, self._raw)]


def transmit(channel: BrokerChannel, outgoing: Iterable[Outgoing]) -> set[bytes]:
    """Send everything, in order; returns the lines that are full or gone, on which nothing more was sent."""
    lost: set[bytes] = set()
    waits, encoder = FULL_LINE_WAITS, _Encoder()
    for line, envelope in outgoing:
        if line in lost:
            continue
        frames = encoder.encode(envelope)
        while not (is_sent := channel.send(line, frames)) and waits:
            waits -= 1
            time.sleep(FULL_LINE_WAIT_S)
        if not is_sent:
            lost.add(line)
    return lost


def let_roles_hang_up(channel: ZmqBrokerChannel, last_words: list[Outgoing]) -> None:
    """Where this end closes first, libzmq drops what a role has not read: the acknowledgement of its Goodbye.

    A ROUTER hears of no hang-up; only sending to a line that is gone tells. So the last words are said again.
    """
    deadline = time.monotonic() + HANG_UP_S
    while last_words and time.monotonic() < deadline:
        last_words = [(line, words) for line, words in last_words if channel.send(line, encode(words))]
        if channel.socket.poll(HANG_UP_LOOK_MS):
            channel.receive()
