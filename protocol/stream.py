"""One direction pair of a conversation: numbering, acknowledgement, repetition. No I/O, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from protocol.arrays import empty_f32, empty_i64
from protocol.errors import ProtocolError
from protocol.message_base import Delivery
from protocol.messages import AnyMessage, Envelope, LossReport, OffPlanReport

ValueReport = LossReport | OffPlanReport

MOST_MERGED_STEPS = 64
"""Steps that one message acknowledges at most: a receiver draws, keeps and logs them one by one before it hears anybody
else, and an outage has hundreds of thousands."""


class Verdict(Enum):
    """What a receiver does with an envelope."""

    DELIVER = "deliver"
    DUPLICATE = "duplicate"
    GAP = "gap"


class Kept(msgspec.Struct):
    """A sent message that the peer has not committed yet."""

    seq: int
    span: int
    message: AnyMessage


def without_values(report: ValueReport) -> ValueReport:
    """The bare acknowledgement of the same steps."""
    if isinstance(report, OffPlanReport):
        return OffPlanReport(number=report.number, through=report.through, ids=empty_i64(), losses=empty_f32())
    return LossReport(step=report.step, through=report.through, rank=report.rank, losses=empty_f32())


def merged(first: AnyMessage, second: AnyMessage) -> ValueReport | None:
    """One acknowledgement for two neighbouring bare ones; None where they are no neighbours."""
    match first, second:
        case LossReport(), LossReport() if first.rank == second.rank and second.step == first.through + 1:
            both: ValueReport = LossReport(step=first.step, through=second.through, rank=first.rank, losses=empty_f32())
        case OffPlanReport(), OffPlanReport() if second.number == first.through + 1:
            both = OffPlanReport(number=first.number, through=second.through, ids=empty_i64(), losses=empty_f32())
        case _:
            return None
    return None if len(first.losses) or len(second.losses) else both


def append_or_merge(queue: deque[Kept], kept: Kept) -> None:
    """Put a message at the end of a queue; neighbouring bare acknowledgements become one."""
    both = merged(queue[-1].message, kept.message) if queue else None
    if both is None:
        queue.append(kept)
    else:
        queue[-1] = Kept(kept.seq, queue[-1].span + kept.span, both)


def in_pieces(kept: Kept) -> Iterator[Kept]:
    """A merged range as messages of ``MOST_MERGED_STEPS`` at most, as if no more had ever been merged."""
    report = kept.message
    if kept.span <= MOST_MERGED_STEPS or not isinstance(report, ValueReport):
        yield kept
        return
    first, before = report.number if isinstance(report, OffPlanReport) else report.step, kept.seq - kept.span
    for done in range(0, kept.span, MOST_MERGED_STEPS):
        stop = min(done + MOST_MERGED_STEPS, kept.span)
        ends = {"number" if isinstance(report, OffPlanReport) else "step": first + done, "through": first + stop - 1}
        yield Kept(before + stop, stop - done, msgspec.structs.replace(report, **ends))


@dataclass(slots=True)
class Stream:
    """Numbers what is sent, keeps it until it is committed, and judges what is received.

    Loss values that wait are bounded by ``values_limit``: beyond it the oldest report loses its values. Bare
    acknowledgements merge with their neighbours, so an outage of any length costs constant memory, and are sent in
    pieces. Acknowledgements are never dropped. Price: a merged message repeats acknowledgements that may have arrived;
    receivers take them as idempotent.
    """

    values_limit: int = 1 << 20
    """Loss values that may wait, over all unacknowledged reports."""

    last_sent: int = 0
    received: int = 0
    committed: int = 0
    acknowledged: int = 0
    """The number up to which the peer has said that it has committed, last."""
    duplicates: int = 0
    values_dropped: int = 0
    values_held: int = 0
    bare: deque[Kept] = field(default_factory=deque)
    waiting: deque[Kept] = field(default_factory=deque)

    def number(self, message: AnyMessage) -> Envelope:
        """The envelope to send now; a reliable message is kept until ``acknowledge``."""
        if message.delivery is not Delivery.RELIABLE:
            return Envelope(seq=0, span=1, ack=self.committed, message=message)
        self.last_sent += 1
        append_or_merge(self.waiting, Kept(self.last_sent, 1, message))
        if isinstance(message, ValueReport):
            self.values_held += len(message.losses)
            while self.values_held > self.values_limit and self.waiting:
                self._shed_oldest()
        return Envelope(seq=self.last_sent, span=1, ack=self.committed, message=message)

    def _shed_oldest(self) -> None:
        kept = self.waiting.popleft()
        if isinstance(kept.message, ValueReport):
            self.values_held -= len(kept.message.losses)
            self.values_dropped += len(kept.message.losses)
            kept.message = without_values(kept.message)
        append_or_merge(self.bare, kept)

    def acknowledge(self, ack: int) -> None:
        """Forget what the peer has committed.

        Raises ProtocolError for an acknowledgement of something never sent.
        """
        if ack > self.last_sent:
            raise ProtocolError("bad_ack", f"acknowledges {ack}, but only {self.last_sent} were sent")
        self.acknowledged = ack  # what a peer that has lost its memory lacks is sent again, where it is still kept
        while self.bare and self.bare[0].seq <= ack:
            self.bare.popleft()
        while self.waiting and self.waiting[0].seq <= ack:
            kept = self.waiting.popleft()
            if isinstance(kept.message, ValueReport):
                self.values_held -= len(kept.message.losses)

    def unacknowledged(self) -> list[Envelope]:
        """Everything to send again after a reconnect, in order."""
        return [
            Envelope(seq=piece.seq, span=piece.span, ack=self.committed, message=piece.message)
            for kept in (*self.bare, *self.waiting)
            for piece in in_pieces(kept)
            if piece.seq > self.acknowledged
        ]

    @property
    def is_acknowledged(self) -> bool:
        """Whether the peer has committed everything that was numbered."""
        return not (self.bare or self.waiting)

    def can_go_on_after(self, seq: int) -> bool:
        """Whether a peer that has committed ``seq`` and nothing later can still be sent all that it lacks."""
        kept = self.bare or self.waiting
        before = kept[0].seq - kept[0].span if kept else self.last_sent
        return before <= seq <= self.last_sent

    def judge(self, envelope: Envelope) -> Verdict:
        """Count the envelope in; DELIVER exactly once for each number, in order.

        Raises ProtocolError where the number does not fit the message.
        """
        if (envelope.seq > 0) != (envelope.message.delivery is Delivery.RELIABLE):
            kind = type(envelope.message).__name__
            raise ProtocolError("bad_seq", f"number {envelope.seq} for a {envelope.message.delivery.value} {kind}")
        if envelope.seq == 0:
            return Verdict.DELIVER
        if envelope.span < 1 or envelope.span > envelope.seq:
            raise ProtocolError("bad_seq", f"span {envelope.span} does not fit number {envelope.seq}")
        if envelope.seq <= self.received:
            self.duplicates += 1
            return Verdict.DUPLICATE
        if envelope.seq - envelope.span > self.received:
            return Verdict.GAP
        self.received = envelope.seq
        return Verdict.DELIVER

    def commit(self) -> None:
        """What was received so far is safe now; later envelopes acknowledge it."""
        self.committed = self.received
