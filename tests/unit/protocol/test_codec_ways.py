"""A body is read the quick way or the long way, and both say the same."""

from __future__ import annotations

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import codec
from protocol.codec import MAX_ELEMENTS, decode, encode
from protocol.errors import ProtocolError
from protocol.messages import AnyMessage, Credit, Envelope, EpochResult, Goodbye, Return
from tests.unit.protocol.test_codec import any_envelope, same

MANY = settings(max_examples=400, deadline=None)
CLOCKS = {"train_s": 0.0, "exposed_wait_s": 0.0, "wall_s": 0.0}


def the_long_way(frames: list[bytes]) -> Envelope | ProtocolError:
    try:
        return codec._decode_the_long_way(frames)
    except ProtocolError as error:
        return error


def as_it_is(frames: list[bytes]) -> Envelope | ProtocolError:
    try:
        return decode(frames)
    except ProtocolError as error:
        return error


def agree(frames: list[bytes]) -> bool:
    """What is ignored need not be text, or anything else that is allowed, to be ignored the quick way."""
    one, other = as_it_is(frames), the_long_way(frames)
    if isinstance(other, ProtocolError):
        return str(one) == str(other) if isinstance(one, ProtocolError) else other.cause == "bad_msgpack"
    return same(one, other)


@MANY
@given(any_envelope)
def test_what_is_sent_is_read_the_same_either_way(envelope: Envelope) -> None:
    assert agree(encode(envelope))


@MANY
@given(any_envelope, st.integers(0), st.binary(min_size=1, max_size=3), st.booleans())
def test_a_body_with_a_few_other_bytes_is_refused_or_read_the_same_either_way(
    envelope: Envelope, place: int, other: bytes, instead: bool
) -> None:
    body, *arrays = encode(envelope)
    place %= len(body)
    assert agree([body[:place] + other + body[place + instead * len(other) :], *arrays])


@MANY
@given(any_envelope)
def test_the_bytes_are_those_of_msgpack(envelope: Envelope) -> None:
    """So a peer of an earlier version, which wrote and read by msgpack alone, notices nothing."""
    body = encode(envelope)[0]
    assert msgpack.packb(msgpack.unpackb(body, strict_map_key=False), use_bin_type=True) == body


def test_a_message_of_ours_needs_no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all of a run's messages are short; to read them is a large part of the broker's work."""
    monkeypatch.setattr(codec, "_decode_the_long_way", lambda frames: pytest.fail("the long way"))
    envelope = Envelope(seq=0, span=1, ack=0, message=Credit(limit=1))
    assert decode(encode(envelope)) == envelope


def test_a_body_that_may_hold_too_many_values_goes_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_ONE_FRAME", None)
    returned = Return(steps=[(1 << 40) + i for i in range(MAX_ELEMENTS // 4)])
    envelope = Envelope(seq=1, span=1, ack=0, message=returned)
    assert len(msgspec.msgpack.encode(returned.steps)) > MAX_ELEMENTS
    assert same(decode(encode(envelope)), envelope)


@pytest.mark.parametrize(
    "message",
    [
        EpochResult(epoch=0, step=0, metric_name="x" * 201, metric_value=0.5, boss_instances=0, **CLOCKS),
        Goodbye(reason="stopped", figures={str(i): 0.0 for i in range(1001)}),
        Goodbye(reason="stopped", figures={"x" * 201: 0.0}),
    ],
    ids=["a metric's name", "many figures", "a figure's name"],
)
def test_words_that_the_broker_would_keep_and_show_have_a_bound(message: AnyMessage) -> None:
    with pytest.raises(ProtocolError):
        decode(encode(Envelope(seq=1, span=1, ack=0, message=message)))
