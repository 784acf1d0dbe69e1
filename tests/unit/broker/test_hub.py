"""The broker's ends of all conversations: envelopes in, core events out, and back. See also the machine that breaks
lines in ``tests/unit/protocol/test_session.py``."""

from __future__ import annotations

import numpy as np
import pytest

from broker.effects import Admit, HelloReceived, MessageReceived, PeerLost, Refuse
from broker.hub import STRANGERS, Hub, Outgoing
from broker.rows import RunRow
from broker.strangers import MOST_LINES
from protocol.messages import (
    AnyMessage,
    Credit,
    Envelope,
    EpochEnd,
    Heartbeat,
    Hello,
    LossReport,
    Reject,
    Welcome,
)
from protocol.session import SessionTimes
from protocol.settings import RunSettings

SIGNS = ["heartbeat", "credit", "report", "report after a gap"]
RUN = RunRow(run_id="run", settings=RunSettings(), dataset_id="d", n=9)
A, B = b"line a", b"line b"


def hello(name: str = "boss-0", incarnation: str = "first", stream: str = "") -> Hello:
    return Hello(role="boss", name=name, incarnation=incarnation, dataset_id="d", n=9, stream=stream)


def bare(message: AnyMessage, ack: int = 0) -> Envelope:
    return Envelope(seq=0, span=1, ack=ack, message=message)


def report(seq: int, ack: int = 0) -> Envelope:
    message = LossReport(step=seq - 1, through=seq - 1, rank=0, losses=np.ones(2, np.float32))
    return Envelope(seq=seq, span=1, ack=ack, message=message)


def end(epoch: int) -> EpochEnd:
    return EpochEnd(epoch=epoch, after_step=0)


@pytest.fixture
def hub() -> Hub:
    """Nobody is there."""
    return Hub(SessionTimes(heartbeat_s=1.0, silence_s=3.0))


def join(
    hub: Hub, said: Hello, line: bytes = A, *, ack: int = 0, committed: int = 0, now: float = 0.0
) -> list[Outgoing]:
    """A Hello comes, and the core accepts it."""
    envelope = bare(said, ack)
    (event,), replies = hub.receive(line, envelope, now)
    assert isinstance(event, HelloReceived) and replies == []
    return hub.admit(line, envelope, Admit(said.name, 0, 0, committed), RUN, now=now)


def stream_of(out: list[Outgoing]) -> str:
    welcome = out[0][1].message
    assert isinstance(welcome, Welcome)
    return welcome.stream


def numbers(out: list[Outgoing]) -> list[int]:
    return [envelope.seq for _, envelope in out]


def code(out: list[Outgoing]) -> str:
    ((_, envelope),) = out
    assert isinstance(envelope.message, Reject)
    return envelope.message.code


def taken(hub: Hub, envelope: Envelope, line: bytes = A) -> list[int]:
    """The numbers that reach the core."""
    return [event.seq for event in hub.receive(line, envelope, 0.1)[0] if isinstance(event, MessageReceived)]


# Joining


def test_a_hello_is_the_core_s_to_judge(hub: Hub) -> None:
    assert hub.receive(A, bare(hello()), 0.0) == ([HelloReceived(hello(), fresh=True)], [])
    assert hub.by_name == {}, "nobody is admitted before the core says so"


def test_a_welcome_says_what_of_the_role_s_stream_is_in_the_store(hub: Hub) -> None:
    """The broker has restarted; numbers up to 7 were committed before."""
    ((line, envelope),) = join(hub, hello(), committed=7)
    assert (line, envelope.ack) == (A, 7)
    assert taken(hub, report(7)) == [] and taken(hub, report(8)) == [8]


def test_a_refusal_carries_the_core_s_reason_and_remedy(hub: Hub) -> None:
    line, envelope = hub.refuse(A, Refuse("boss-0", "dataset", "another data set", "give the same"))
    assert (line, envelope.message) == (A, Reject(code="dataset", reason="another data set", remedy="give the same"))


def test_who_has_not_said_hello_is_asked_to(hub: Hub) -> None:
    events, out = hub.receive(A, report(1), 0.0)
    assert events == [] and code(out) == "resume"


def test_who_speaks_and_says_no_hello_in_time_is_counted_as_a_stranger_with_all_its_messages(hub: Hub) -> None:
    for now in (0.0, 0.5, 1.0):
        hub.receive(A, report(1), now)
    hub.tick(2.9)
    assert hub.refused == {}
    hub.tick(3.0)
    hub.tick(9.0)
    assert (hub.refused, hub.refused_from) == ({"no_hello": 3}, {STRANGERS: 3})


def test_roles_that_do_not_know_yet_that_their_broker_is_another_are_no_strangers(hub: Hub) -> None:
    """It was killed and started again: whoever is asked to say Hello says it, and is let in, or told to begin anew."""
    for line, refusal in ((A, ""), (B, "fenced")):
        hub.receive(line, report(1), 0.0)
        if refusal:
            hub.refuse(line, Refuse("boss-0", refusal, "it belongs to what came after", ""))  # type: ignore[arg-type]
        else:
            join(hub, hello(), line)
    hub = hub.emptied()
    hub.tick(60.0)
    assert hub.refused == {}


def test_what_was_on_its_way_when_a_role_left_is_no_strangers(hub: Hub) -> None:
    """A heartbeat crosses the last word."""
    join(hub, hello())
    hub.forget("boss-0")
    hub.receive(A, report(2), 1.0)
    hub.tick(60.0)
    assert hub.refused == {}


def test_strangers_without_end_are_counted_before_their_time_and_not_kept(hub: Hub) -> None:
    for number in range(MOST_LINES + 10):
        hub.receive(number.to_bytes(5, "big"), report(1), 0.0)
    hub.tick(0.1)
    assert hub.refused == {"no_hello": 10}


def test_a_hello_repeated_before_its_welcome_was_heard_keeps_the_stream(hub: Hub) -> None:
    """The broker was busy for half a second, so the role has said Hello three times. One stream answers them all:
    with a stream for each, the role would take the second stream's first messages for repetitions."""
    first = join(hub, hello())
    hub.send("boss-0", end(0), 0.0)
    second = join(hub, hello())
    assert stream_of(second) == stream_of(first)
    assert numbers(second) == [0, 1], "what the first Welcome was followed by comes again"


def test_a_reconnect_goes_on_with_the_stream_and_sends_what_is_missing(hub: Hub) -> None:
    stream = stream_of(join(hub, hello()))
    for epoch in range(3):
        hub.send("boss-0", end(epoch), 0.0)
    again = join(hub, hello(stream=stream), B, ack=2)
    assert stream_of(again) == stream
    assert [line for line, _ in again] == [B, B] and numbers(again) == [0, 3]


def test_what_comes_late_on_the_old_line_is_not_counted(hub: Hub) -> None:
    stream = stream_of(join(hub, hello()))
    join(hub, hello(stream=stream), B)
    assert code(hub.receive(A, report(1), 0.1)[1]) == "resume"
    assert taken(hub, report(1), B) == [1]


def test_a_hello_of_an_older_stream_on_another_line_begins_a_new_stream(hub: Hub) -> None:
    first = stream_of(join(hub, hello()))
    envelope = bare(hello(stream="before"))
    (event,), _ = hub.receive(B, envelope, 0.1)
    assert isinstance(event, HelloReceived) and event.fresh
    assert stream_of(join(hub, hello(stream="before"), B)) != first


def test_a_role_that_lacks_what_is_no_longer_kept_gets_a_new_stream(hub: Hub) -> None:
    """Without this it would meet the same gap after every Welcome, for ever."""
    stream = stream_of(join(hub, hello()))
    for epoch in range(3):
        hub.send("boss-0", end(epoch), 0.0)
    hub.receive(A, bare(Credit(limit=1), ack=2), 0.1)
    (event,), _ = hub.receive(B, bare(hello(stream=stream), ack=1), 0.2)
    assert isinstance(event, HelloReceived) and event.fresh
    assert stream_of(join(hub, hello(stream=stream), B, ack=1)) != stream


def test_a_restarted_role_begins_a_new_stream(hub: Hub) -> None:
    first = stream_of(join(hub, hello()))
    hub.send("boss-0", end(0), 0.0)
    second = join(hub, hello(incarnation="second"), B)
    assert stream_of(second) != first and numbers(second) == [0]


@pytest.mark.parametrize("silent_s, alive", [(2.9, True), (3.0, False)])
def test_another_process_of_a_name_shows_whether_the_first_is_alive(hub: Hub, silent_s: float, alive: bool) -> None:
    join(hub, hello(), now=10.0)
    (event,), _ = hub.receive(B, bare(hello(incarnation="second")), 10.0 + silent_s)
    assert isinstance(event, HelloReceived) and event.alive_elsewhere is alive


def test_a_role_is_not_its_own_rival(hub: Hub) -> None:
    join(hub, hello(), now=10.0)
    (event,), _ = hub.receive(B, bare(hello()), 10.1)
    assert isinstance(event, HelloReceived) and not event.alive_elsewhere


def test_forgetting_one_name_does_not_cut_off_another_on_the_same_line(hub: Hub) -> None:
    """A hostile peer says Hello twice on one line, under two names, and lets the first fall silent."""
    join(hub, hello("first"))
    join(hub, hello("second"))
    hub.forget("first")
    assert taken(hub, report(1)) == [1]


# Talking


def test_a_message_reaches_the_core_once_with_name_and_number(hub: Hub) -> None:
    join(hub, hello())
    sent = report(1)
    assert hub.receive(A, sent, 0.1) == ([MessageReceived("boss-0", sent.message, 1)], [])
    assert hub.receive(A, sent, 0.2) == ([], [])
    assert hub.refused == {"duplicate": 1}


def test_a_gap_asks_the_role_to_say_all_again(hub: Hub) -> None:
    join(hub, hello())
    events, out = hub.receive(A, report(2), 0.1)
    assert events == [] and code(out) == "resume"


def test_a_lost_tail_shows_in_the_role_s_heartbeat(hub: Hub) -> None:
    join(hub, hello())
    assert code(hub.receive(A, bare(Heartbeat(seq=1)), 0.1)[1]) == "resume"
    hub.receive(A, report(1), 0.2)
    assert hub.receive(A, bare(Heartbeat(seq=1)), 0.3) == ([], [])


def test_heartbeats_bring_the_process_s_vitals(hub: Hub) -> None:
    join(hub, hello())
    hub.receive(A, bare(Heartbeat(seq=0, cpu_percent=50.0, rss_bytes=7)), 0.1)
    conversation = hub.by_name["boss-0"]
    assert (conversation.cpu_percent, conversation.rss_bytes) == (50.0, 7)


def test_only_what_is_committed_is_acknowledged(hub: Hub) -> None:
    join(hub, hello())
    hub.receive(A, report(1), 0.1)
    assert [e.ack for _, e in hub.send("boss-0", end(0), 0.1)] == [0]
    hub.commit()
    assert [e.ack for _, e in hub.send("boss-0", end(1), 0.2)] == [1]


def test_a_role_s_sign_of_life_is_answered_once_with_what_is_committed(hub: Hub) -> None:
    """A rank at a checkpoint waits for just that, and must not wait for the next heartbeat."""
    join(hub, hello())
    hub.receive(A, report(1), 0.1)
    hub.receive(A, bare(Heartbeat(seq=1)), 0.1)
    hub.commit()
    ((line, answer),) = hub.answers(0.1)
    assert (line, answer.ack) == (A, 1) and isinstance(answer.message, Heartbeat)
    assert hub.answers(0.2) == []


def test_an_acknowledgement_of_something_never_sent_is_counted_and_the_message_is_not_taken(hub: Hub) -> None:
    join(hub, hello())
    assert hub.receive(A, report(1, ack=5), 0.1) == ([], [])
    assert hub.refused == {"bad_ack": 1} and hub.by_name["boss-0"].stream.received == 0


def test_a_reliable_message_without_a_number_is_refused(hub: Hub) -> None:
    """It could be sent any number of times, and each would count."""
    join(hub, hello())
    assert hub.receive(A, bare(report(1).message), 0.1) == ([], [])
    assert hub.refused == {"bad_seq": 1}


def test_what_one_peer_does_wrong_leaves_the_others_alone(hub: Hub) -> None:
    join(hub, hello("good"), A)
    join(hub, hello("bad", "other"), B)
    for ack in range(50, 60):
        hub.receive(B, report(1, ack=ack), 0.1)
    assert taken(hub, report(1)) == [1]


def test_nothing_is_sent_to_who_is_not_there(hub: Hub) -> None:
    assert hub.send("nobody", end(0), 0.0) == []


def test_nothing_follows_on_a_full_line_until_the_role_says_hello_again(hub: Hub) -> None:
    """Had a Welcome been lost and the next message come through, the role would count it into the stream before."""
    stream = stream_of(join(hub, hello()))
    hub.send("boss-0", end(0), 0.0)
    hub.lose_line(A)
    assert hub.send("boss-0", end(1), 0.1) == []
    assert code(hub.receive(A, report(1), 0.2)[1]) == "resume"
    again = join(hub, hello(stream=stream), A, now=0.3)
    assert stream_of(again) == stream and numbers(again) == [0, 1, 2]


# Time


def test_a_silent_role_is_lost_once(hub: Hub) -> None:
    join(hub, hello(), now=10.0)
    assert hub.tick(12.9)[0] == []
    assert hub.tick(13.0)[0] == [PeerLost("boss-0")]
    assert hub.tick(99.0)[0] == []
    assert code(hub.receive(A, report(1), 99.0)[1]) == "resume"


@pytest.mark.parametrize("sign", [bare(Heartbeat(seq=0)), bare(Credit(limit=1)), report(1), report(3)], ids=SIGNS)
def test_any_sign_of_life_keeps_a_role(hub: Hub, sign: Envelope) -> None:
    join(hub, hello(), now=10.0)
    hub.receive(A, sign, 12.0)
    assert hub.tick(14.9)[0] == []


def test_a_heartbeat_names_the_last_number_where_nothing_else_is_said(hub: Hub) -> None:
    join(hub, hello(), now=10.0)
    hub.send("boss-0", end(0), 10.5)
    assert hub.tick(11.4)[1] == []
    assert [(line, e.message) for line, e in hub.tick(11.5)[1]] == [(A, Heartbeat(seq=1))]
    assert hub.tick(11.6)[1] == []


def test_the_deadline_is_the_next_heartbeat_or_silence(hub: Hub) -> None:
    assert hub.next_deadline() is None
    join(hub, hello(), now=10.0)
    assert hub.next_deadline() == 11.0
    hub.tick(11.0)
    hub.tick(12.0)
    assert hub.next_deadline() == 13.0
