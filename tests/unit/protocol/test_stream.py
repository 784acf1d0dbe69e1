"""Numbering, acknowledgement, repetition, and what a long outage costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.messages import Credit, Envelope, EpochEnd, Heartbeat, LossReport, OffPlanReport
from protocol.stream import MOST_MERGED_STEPS, Stream, Verdict, merged


def report(step: int, values: int = 2, through: int | None = None, rank: int = 0) -> LossReport:
    last = step if through is None else through
    return LossReport(step=step, through=last, rank=rank, losses=np.full(values, step, np.float32))


def end(epoch: int = 0) -> EpochEnd:
    return EpochEnd(epoch=epoch, after_step=0)


def envelope(seq: int, span: int = 1) -> Envelope:
    message = end(seq) if span == 1 else report(seq - span, 0, through=seq - 1)
    return Envelope(seq=seq, span=span, ack=0, message=message)


def waiting(stream: Stream) -> list[tuple[int, int]]:
    """(seq, span) of all that would be sent again."""
    return [(e.seq, e.span) for e in stream.unacknowledged()]


# Sending


def test_reliable_messages_are_numbered_from_one_and_kept() -> None:
    stream = Stream()
    assert [stream.number(end()).seq for _ in range(3)] == [1, 2, 3]
    assert waiting(stream) == [(1, 1), (2, 1), (3, 1)]


def test_a_message_whose_newer_one_makes_it_worthless_is_neither_numbered_nor_kept() -> None:
    stream = Stream()
    assert stream.number(Credit(limit=3)).seq == 0
    assert waiting(stream) == [] and stream.last_sent == 0


def test_every_envelope_says_what_of_the_peer_is_committed_and_nothing_more() -> None:
    """The broker acknowledges only what its store holds: received and not committed does not count."""
    stream = Stream()
    stream.judge(envelope(1))
    assert stream.number(end()).ack == 0
    stream.commit()
    assert stream.number(end()).ack == 1
    assert [e.ack for e in stream.unacknowledged()] == [1, 1], "said anew when it is sent again"


def test_what_is_acknowledged_is_forgotten() -> None:
    stream = Stream()
    for step in range(3):
        stream.number(report(step))
    stream.acknowledge(2)
    assert waiting(stream) == [(3, 1)] and stream.values_held == 2


def test_an_older_acknowledgement_takes_nothing_back() -> None:
    stream = Stream()
    for _ in range(3):
        stream.number(end())
    stream.acknowledge(3)
    stream.acknowledge(1)
    assert waiting(stream) == []


def test_an_acknowledgement_of_something_never_sent_is_refused() -> None:
    stream = Stream()
    stream.number(end())
    with pytest.raises(ProtocolError, match="bad_ack: acknowledges 2, but only 1 were sent"):
        stream.acknowledge(2)
    assert waiting(stream) == [(1, 1)]


# Receiving


def test_each_number_is_delivered_once_and_in_order() -> None:
    stream = Stream()
    verdicts = [stream.judge(envelope(seq)) for seq in (1, 1, 3, 2, 3, 1)]
    deliver, duplicate, gap = Verdict.DELIVER, Verdict.DUPLICATE, Verdict.GAP
    assert verdicts == [deliver, duplicate, gap, deliver, deliver, duplicate]
    assert stream.received == 3 and stream.duplicates == 2


def test_a_range_that_begins_with_what_was_received_is_delivered() -> None:
    """Acknowledgements were merged during an outage; some had arrived before it."""
    stream = Stream(received=4)
    assert stream.judge(envelope(9, span=7)) is Verdict.DELIVER
    assert stream.received == 9


def test_a_range_that_begins_beyond_the_next_number_is_a_gap() -> None:
    assert Stream(received=4).judge(envelope(9, span=4)) is Verdict.GAP


def test_unnumbered_messages_are_delivered_however_often_they_come() -> None:
    stream = Stream()
    beat = Envelope(seq=0, span=1, ack=0, message=Heartbeat(seq=0))
    assert [stream.judge(beat), stream.judge(beat)] == [Verdict.DELIVER] * 2


@pytest.mark.parametrize("span", [0, 6], ids=["no number", "more than there are"])
def test_a_span_that_does_not_fit_the_number_is_refused(span: int) -> None:
    with pytest.raises(ProtocolError, match="bad_seq: span"):
        Stream().judge(envelope(5, span))


def test_a_reliable_message_without_a_number_is_refused_for_it_could_be_replayed() -> None:
    with pytest.raises(ProtocolError, match="bad_seq: number 0 for a reliable EpochEnd"):
        Stream().judge(envelope(0))


def test_a_numbered_message_that_nobody_keeps_is_refused_for_it_would_hide_a_lost_one() -> None:
    with pytest.raises(ProtocolError, match="bad_seq: number 1 for a latest Heartbeat"):
        Stream().judge(Envelope(seq=1, span=1, ack=0, message=Heartbeat(seq=0)))


def test_what_is_refused_is_not_counted_in() -> None:
    stream = Stream()
    with pytest.raises(ProtocolError):
        stream.judge(Envelope(seq=1, span=1, ack=0, message=Heartbeat(seq=0)))
    assert stream.judge(envelope(1)) is Verdict.DELIVER


# Going on after a break


@pytest.mark.parametrize("committed, possible", [(0, False), (1, False), (2, True), (4, True), (5, False)])
def test_one_can_go_on_only_where_all_that_the_peer_lacks_is_still_kept(committed: int, possible: bool) -> None:
    stream = Stream()
    for _ in range(4):
        stream.number(end())
    stream.acknowledge(2)
    assert stream.can_go_on_after(committed) is possible


def test_one_can_go_on_where_everything_is_acknowledged() -> None:
    stream = Stream()
    stream.number(end())
    stream.acknowledge(1)
    assert stream.can_go_on_after(1) and not stream.can_go_on_after(0)


def test_one_can_go_on_after_a_part_of_a_merged_range() -> None:
    stream = Stream()
    for step in range(3):
        stream.number(report(step, values=0))
    assert waiting(stream) == [(3, 3)] and stream.can_go_on_after(1)


# An outage


def test_beyond_the_limit_the_oldest_report_loses_its_values_and_stays_an_acknowledgement() -> None:
    stream = Stream(values_limit=5)
    for step in range(3):
        stream.number(report(step))
    first, second, third = stream.unacknowledged()
    assert isinstance(first.message, LossReport) and isinstance(second.message, LossReport)
    assert len(first.message.losses) == 0 and (first.message.step, first.message.through) == (0, 0)
    assert len(second.message.losses) == 2
    assert (stream.values_held, stream.values_dropped) == (4, 2)
    assert [first.seq, second.seq, third.seq] == [1, 2, 3]


def test_neighbouring_bare_acknowledgements_become_one() -> None:
    stream = Stream(values_limit=4)
    for step in range(10):
        stream.number(report(step))
    merged_report = stream.unacknowledged()[0]
    assert isinstance(merged_report.message, LossReport)
    assert (merged_report.message.step, merged_report.message.through) == (0, 7)
    assert waiting(stream) == [(8, 8), (9, 1), (10, 1)]


def test_an_outage_of_any_length_costs_constant_memory() -> None:
    stream = Stream(values_limit=100)
    for step in range(100_000):
        stream.number(report(step))
    assert len(stream.bare) + len(stream.waiting) == 51
    assert stream.values_held <= 100


def test_bare_reports_cost_constant_memory_too() -> None:
    """The ring at the Boss is full, so no report has values: there is nothing to shed, and still they must not pile
    up."""
    stream = Stream()
    for step in range(100_000):
        stream.number(report(step, values=0))
    assert [(kept.seq, kept.span) for kept in (*stream.bare, *stream.waiting)] == [(100_000, 100_000)]


def steps_of(e: Envelope) -> tuple[int, int]:
    """First and last step that a bare report acknowledges."""
    assert isinstance(e.message, LossReport | OffPlanReport)
    return (e.message.number if isinstance(e.message, OffPlanReport) else e.message.step), e.message.through


@pytest.mark.parametrize("kind", ["planned", "off the plan"])
def test_what_an_outage_has_merged_is_sent_in_pieces_that_hold_no_receiver_up(kind: str) -> None:
    stream, outage = Stream(values_limit=0), 3 * MOST_MERGED_STEPS + 5
    for step in range(outage):
        stream.number(report(step) if kind == "planned" else off_plan(step, values=1))
    pieces = stream.unacknowledged()
    assert [(e.seq, e.span) for e in pieces] == [(64, 64), (128, 64), (192, 64), (197, 5)]
    assert [steps_of(e) for e in pieces] == [(0, 63), (64, 127), (128, 191), (192, 196)]
    receiver = Stream()
    assert [receiver.judge(e) for e in pieces] == [Verdict.DELIVER] * 4 and receiver.received == outage


def test_pieces_that_have_arrived_are_not_sent_again_unless_the_peer_has_lost_them() -> None:
    stream = Stream()
    for step in range(200):
        stream.number(report(step, values=0))
    stream.acknowledge(128)
    assert waiting(stream) == [(192, 64), (200, 8)] and stream.can_go_on_after(128)
    stream.acknowledge(64)
    assert waiting(stream) == [(128, 64), (192, 64), (200, 8)]


def test_a_single_report_beyond_the_limit_is_sent_once_and_kept_bare() -> None:
    stream = Stream(values_limit=4)
    now = stream.number(report(0, values=9)).message
    assert isinstance(now, LossReport) and len(now.losses) == 9
    again = stream.unacknowledged()[0].message
    assert isinstance(again, LossReport) and len(again.losses) == 0
    assert stream.values_held == 0


def test_other_messages_keep_their_place_among_shed_reports() -> None:
    stream = Stream(values_limit=2)
    stream.number(report(0))
    stream.number(end())
    stream.number(report(1))
    stream.number(report(2))
    kinds = [type(e.message).__name__ for e in stream.unacknowledged()]
    assert kinds == ["LossReport", "EpochEnd", "LossReport", "LossReport"]
    assert [seq for seq, _ in waiting(stream)] == [1, 2, 3, 4]


def test_an_acknowledgement_in_the_middle_of_a_merged_range_keeps_all_of_it() -> None:
    """Half of the range has arrived; the whole is said again, which the receiver takes as idempotent."""
    stream = Stream(values_limit=0)
    for step in range(4):
        stream.number(report(step))
    stream.acknowledge(2)
    assert waiting(stream) == [(4, 4)]


@pytest.mark.parametrize(
    "second",
    [report(1), report(2, values=0), report(1, values=0, rank=1), report(0, values=0), end()],
    ids=["has values", "leaves a step out", "another rank", "the same step", "another message"],
)
def test_only_neighbours_of_one_rank_without_values_merge(second: LossReport | EpochEnd) -> None:
    assert merged(report(0, values=0), second) is None


def off_plan(number: int, values: int = 0) -> OffPlanReport:
    return OffPlanReport(number=number, through=number, ids=np.arange(values), losses=np.ones(values, np.float32))


def test_off_plan_reports_are_shed_and_merged_among_themselves() -> None:
    """The broker is away for hours, and the Boss trains on batches of its own: that too costs constant memory."""
    stream = Stream(values_limit=4)
    for number in range(10):
        stream.number(off_plan(number, values=2))
    first = stream.unacknowledged()[0].message
    assert isinstance(first, OffPlanReport) and (first.number, first.through) == (0, 7)
    assert len(first.ids) == len(first.losses) == 0
    assert waiting(stream) == [(8, 8), (9, 1), (10, 1)]


@pytest.mark.parametrize(
    "second",
    [report(1, values=0), off_plan(2), off_plan(0), off_plan(1, values=2)],
    ids=["a planned step", "leaves one out", "the same", "has values"],
)
def test_an_off_plan_report_merges_with_its_neighbour_only(second: LossReport | OffPlanReport) -> None:
    assert merged(off_plan(0), second) is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 4) | st.just("epoch") | st.tuples(st.just("ack"), st.floats(0, 1)), max_size=60),
    st.integers(0, 10),
)
def test_whatever_is_sent_and_acknowledged_every_number_is_kept_until_then(moves: list[object], limit: int) -> None:
    """The kept ranges always run without a hole from the first unacknowledged number to the last, and no values
    beyond the limit are held."""
    stream = Stream(values_limit=limit)
    step = acknowledged = 0
    for move in moves:
        match move:
            case int(values):
                stream.number(report(step, values))
                step += 1
            case "epoch":
                stream.number(end())
            case (_, float(share)):
                acknowledged = max(acknowledged, round(share * stream.last_sent))
                stream.acknowledge(acknowledged)
        ranges = waiting(stream)
        assert [seq - span for seq, span in ranges[1:]] == [seq for seq, _ in ranges[:-1]]
        first, last = (ranges[0][0] - ranges[0][1], ranges[-1][0]) if ranges else (acknowledged, acknowledged)
        assert first <= acknowledged and last == stream.last_sent
        assert not ranges or ranges[0][0] > acknowledged
        kept = [e.message for e in stream.unacknowledged() if isinstance(e.message, LossReport)]
        assert stream.values_held == sum(len(m.losses) for m in kept) <= limit
