"""Messages to frames and back: nothing is lost, and nothing but a message of ours ever gets in."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, get_args

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from protocol.arrays import MAX_ARRAY_BYTES, pack_array, unpack_array
from protocol.codec import MAX_BODY_BYTES, MAX_ELEMENTS, MAX_FRAMES, OWN_FRAME_BYTES, decode, encode
from protocol.errors import ProtocolError
from protocol.messages import (
    MOST_SHOWN,
    AnyMessage,
    Batch,
    Checkpoint,
    CheckpointTaken,
    Credit,
    Envelope,
    EpochEnd,
    EpochResult,
    Goodbye,
    Heartbeat,
    Hello,
    Lengths,
    LossRecord,
    LossReport,
    OffPlanReport,
    Preview,
    PreviewReply,
    RecordsDropped,
    Reject,
    Return,
    Segment,
    Selection,
    Shown,
    Stop,
    Welcome,
    Window,
)
from protocol.settings import RunSettings

CAUSES = {"bad_frames", "oversized", "bad_msgpack", "bad_message", "bad_array"}
FEW = settings(max_examples=150, deadline=None)

# A strategy for every field of every message

counts = st.integers(0, 1 << 62)
numbers = st.integers(-(1 << 62), 1 << 62)
floats = st.floats()
names = st.text(max_size=20)
words = st.text(max_size=200)
reasons = st.sampled_from(["finished", "stopped", "failed"])


def array_of(dtype: type, element: SearchStrategy[Any]) -> SearchStrategy[np.ndarray]:
    """Mostly small ones; some fill a frame of their own."""
    small = st.lists(element, max_size=12).map(lambda values: np.array(values, dtype=dtype))
    least = OWN_FRAME_BYTES // np.dtype(dtype).itemsize
    large = st.integers(least - 1, least + 9).map(lambda n: (np.arange(n) * 7 - 3).astype(dtype))
    return st.one_of(small, small, small, large)


i64 = array_of(np.int64, st.integers(-(1 << 63), (1 << 63) - 1))
f32 = array_of(np.float32, st.floats(width=32))
run_settings = st.builds(
    RunSettings,
    policy=st.sampled_from(["autoassist", "uniform", "random-drop"]),
    epochs=st.none() | st.integers(1, 1 << 62),
    batch_size=st.integers(1, 1000),
    world_size=st.integers(1, 1000),
    seed=st.integers(0, (1 << 63) - 1),
    staleness_bound=st.integers(96, 1 << 62),
    patience_s=st.floats(0.001, 1e9),
    deterministic=st.booleans(),
)
segments = st.builds(
    Segment,
    count=counts,
    epoch=counts,
    window=counts,
    assistant=names,
    version=counts,
    learned_through=st.none() | numbers,
)

shown = st.builds(
    Shown,
    id=counts,
    trained=counts,
    keep_probability=floats,
    losses=st.lists(st.floats(width=32), max_size=8).map(lambda values: np.array(values, np.float32)),
    label=numbers,
    text=words,
    pixels=st.binary(max_size=50),
    height=counts,
    width=counts,
)

FIELDS: dict[type, dict[str, SearchStrategy[Any]]] = {
    Hello: {
        "role": st.sampled_from(["boss", "assistant"]),
        "name": names,
        "incarnation": names,
        "dataset_id": names,
        "n": numbers,
        "stream": names,
        "settings": st.none() | run_settings,
        "rank": numbers,
        "package_version": names,
        "protocol": numbers,
        "slots": numbers,
        "position": numbers,
        "history": names,
        "restore_step": numbers,
        "run_id": names,
        "workload": names,
        "previews": st.booleans(),
        "lengths": names,
    },
    Welcome: {
        "run_id": names,
        "stream": names,
        "settings": run_settings,
        "position": counts,
        "index": counts,
        "protocol": numbers,
        "generation": counts,
        "dataset_id": names,
        "n": counts,
        "lengths": counts,
    },
    Reject: {
        "code": st.sampled_from(
            [
                *("resume", "wait", "version", "dataset", "settings", "duplicate"),
                *("malformed", "restore", "fenced", "taken", "elsewhere"),
            ]
        ),
        "reason": words,
        "remedy": words,
    },
    Credit: {"limit": numbers, "yielded": numbers, "learned_through": numbers},
    Window: {
        "window": counts,
        "attempt": counts,
        "epoch": counts,
        "progress": floats,
        "ids": i64,
        "learn_through": numbers,
    },
    Selection: {
        "window": counts,
        "attempt": counts,
        "kept_ids": i64,
        "keep_probabilities": f32,
        "learned_through": numbers,
        "version": counts,
        "lift": floats,
        "lift_error": floats,
    },
    Batch: {
        "step": counts,
        "epoch": counts,
        "progress": floats,
        "ids": i64,
        "keep_probabilities": f32,
        "rank_counts": st.lists(counts, max_size=4),
        "segments": st.lists(segments, max_size=4),
        "padding": counts,
        "off_plan_before": counts,
        "kind": st.sampled_from(["plan", "off_plan", "returned"]),
    },
    EpochEnd: {"epoch": counts, "after_step": numbers, "last": st.booleans(), "returns": counts},
    Lengths: {"start": counts, "values": i64},
    LossReport: {"step": counts, "through": counts, "rank": counts, "losses": f32, "report_us": floats},
    OffPlanReport: {"number": counts, "through": counts, "ids": i64, "losses": f32},
    Return: {"steps": st.lists(counts, max_size=5)},
    LossRecord: {
        "position": counts,
        "step": counts,
        "rank": counts,
        "learned_through": numbers,
        "epoch": counts,
        "ids": i64,
        "losses": f32,
        "keep_probabilities": f32,
    },
    Checkpoint: {"step": numbers},
    CheckpointTaken: {"step": numbers},
    RecordsDropped: {"through_position": counts, "learned_through": numbers},
    EpochResult: {
        "epoch": counts,
        "step": numbers,
        "metric_name": words,
        "metric_value": floats,
        "boss_instances": counts,
        "train_s": floats,
        "exposed_wait_s": floats,
        "wall_s": floats,
    },
    Heartbeat: {"seq": counts, "cpu_percent": floats, "rss_bytes": counts},
    Stop: {"reason": reasons, "detail": words},
    Goodbye: {"reason": reasons, "figures": st.dictionaries(names, floats, max_size=5), "set_aside": i64},
    Preview: {"number": counts, "instances": st.integers(0, MOST_SHOWN)},
    PreviewReply: {
        "number": counts,
        "assistant": names,
        "groups": st.dictionaries(names, st.lists(shown, max_size=3), max_size=3),
        "known": counts,
        "set_aside": counts,
        "loss_edges": f32,
        "loss_counts": i64,
        "keep_counts": i64,
    },
}


def envelope_of(kind: type) -> SearchStrategy[Envelope]:
    message = st.builds(kind, **FIELDS[kind])
    return st.builds(Envelope, seq=counts, span=counts, ack=counts, message=message)


any_envelope = st.one_of([envelope_of(kind) for kind in FIELDS])


def same(one: Any, other: Any) -> bool:
    """Equal, field by field; arrays by dtype and bits, so that NaN equals NaN."""
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    if isinstance(one, msgspec.Struct):
        return type(one) is type(other) and all(same(getattr(one, f), getattr(other, f)) for f in one.__struct_fields__)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, float):
        return msgpack.packb(one) == msgpack.packb(other)
    return bool(one == other and type(one) is type(other))


# There and back


@pytest.mark.parametrize("kind", get_args(AnyMessage), ids=lambda kind: kind.__name__)
def test_every_message_and_every_field_has_a_strategy_here(kind: type[msgspec.Struct]) -> None:
    """A message or field that is added later cannot be forgotten by the property below."""
    assert set(FIELDS[kind]) == set(kind.__struct_fields__)


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_a_message_comes_back_as_it_was_sent(kind: type) -> None:
    @settings(max_examples=40, deadline=None)
    @given(envelope_of(kind))
    def comes_back(envelope: Envelope) -> None:
        assert same(decode(encode(envelope)), envelope)

    comes_back()


def envelope(message: AnyMessage) -> Envelope:
    return Envelope(seq=5, span=1, ack=3, message=message)


def test_an_array_travels_in_the_body_below_64_kib_and_in_a_frame_of_its_own_from_there_on() -> None:
    below, at = np.arange(8191), np.arange(8192)
    assert len(encode(envelope(Window(window=1, attempt=1, epoch=0, progress=0.0, ids=below)))) == 1
    frames = encode(envelope(Window(window=1, attempt=1, epoch=0, progress=0.0, ids=at)))
    assert [len(frame) for frame in frames[1:]] == [65536]


def test_several_large_arrays_keep_their_places() -> None:
    ids, losses, keep = np.arange(20000), np.linspace(0, 1, 30000, dtype=np.float32), np.ones(40000, np.float32)
    record = LossRecord(
        position=0, step=0, rank=0, learned_through=0, epoch=0, ids=ids, losses=losses, keep_probabilities=keep
    )
    frames = encode(envelope(record))
    assert len(frames) == 4
    assert same(decode(frames).message, record)


def test_received_arrays_are_read_only_so_nobody_changes_what_another_holds() -> None:
    message = decode(encode(envelope(Window(window=1, attempt=1, epoch=0, progress=0.0, ids=np.arange(3))))).message
    assert isinstance(message, Window)
    with pytest.raises(ValueError, match="read-only"):
        message.ids[0] = 7


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=">i8"), np.arange(12)[::2] // 2, np.arange(6)[::-1][::-1]], ids=str
)
def test_big_endian_and_strided_arrays_are_sent_by_value(array: np.ndarray) -> None:
    assert np.array_equal(unpack_array(np.typing.NDArray[np.int64], *pack_array(array)), np.arange(6))


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros((2, 2), np.float32), np.array([None]), np.zeros(3, np.int32)], ids=lambda a: a.dtype
)
def test_sending_an_array_outside_the_allow_list_is_a_bug_of_ours(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="allow-list"):
        encode(envelope(Window(window=1, attempt=1, epoch=0, progress=0.0, ids=array)))


# Other versions


def body(*message: Any, seq: Any = 5, span: Any = 1, ack: Any = 3) -> bytes:
    return msgpack.packb([seq, span, ack, list(message)])


@FEW
@given(any_envelope, st.lists(st.none() | st.integers(0, 9) | st.text(max_size=5), min_size=1, max_size=3))
def test_fields_of_a_later_version_are_ignored(sent: Envelope, more: list[Any]) -> None:
    raw, *arrays = encode(sent)
    seq, span, ack, message = msgpack.unpackb(raw)
    later = msgpack.packb([seq, span, ack, [*message, *more], *more])
    assert same(decode([later, *arrays]), sent)


def test_a_setting_of_a_later_version_is_ignored() -> None:
    hello = ("hello", "boss", "boss-0", "i", "d", 9, "", {"batch_size": 3, "colour": "blue"})
    assert decode([body(*hello)]).message.settings == RunSettings(batch_size=3)  # type: ignore[union-attr]


def test_an_array_of_a_later_version_may_have_its_own_frame() -> None:
    later = body("heartbeat", 7, 0.5, 9, ["<i8", 1, 1])
    assert decode([later, b"12345678"]).message == Heartbeat(seq=7, cpu_percent=0.5, rss_bytes=9)


def test_trailing_fields_that_an_earlier_version_does_not_know_take_their_defaults() -> None:
    assert decode([body("heartbeat", 7)]).message == Heartbeat(seq=7)
    assert decode([body("hello", "assistant", "a", "i", "d", 9)]).message == Hello(
        role="assistant", name="a", incarnation="i", dataset_id="d", n=9
    )


def test_a_field_without_a_default_may_not_be_missing() -> None:
    with pytest.raises(ProtocolError, match=r"bad_message: .*at least length 2"):
        decode([body("heartbeat")])


# What is refused


def window(array: Any) -> bytes:
    return body("window", 1, 1, 0, 0.5, array)


def report(array: Any) -> bytes:
    return body("loss_report", 1, 1, 0, array)


def nested(inner: list[Any]) -> bytes:
    """As many of ``inner`` as a body may hold values, and one thousand more."""
    return msgpack.packb([inner * 1000] * (MAX_ELEMENTS // 1000 + 1))


HELLO = ("hello", "boss", "boss-0", "i", "d", 9, "")
VALID = body("heartbeat", 7)
REFUSED: dict[str, tuple[list[bytes], str]] = {
    "no frames": ([], "bad_frames: 0 frames"),
    "too many frames": ([VALID] + [b""] * MAX_FRAMES, "bad_frames: 17 frames"),
    "empty body": ([b""], "bad_msgpack: .*incomplete"),
    "truncated body": ([VALID[:-1]], "bad_msgpack: .*incomplete"),
    "trailing garbage": ([VALID + b"\x00"], "bad_msgpack: .*extra data"),
    "never used byte": ([b"\xc1"], "bad_msgpack"),
    "oversized body": ([bytes(MAX_BODY_BYTES + 1)], f"oversized: body of {MAX_BODY_BYTES + 1} bytes"),
    "nested without end": ([b"\x91" * 100_000], "bad_msgpack: StackError"),
    "maps nested without end": ([b"\x81\xa1a" * 100_000], "bad_msgpack: StackError"),
    "list longer than allowed": ([b"\xdd" + (MAX_ELEMENTS + 1).to_bytes(4, "big")], "bad_msgpack: .*max_array_len"),
    "map longer than allowed": ([b"\xdf" + (MAX_ELEMENTS + 1).to_bytes(4, "big")], "bad_msgpack: .*max_map_len"),
    "more values than allowed": ([nested(["ab"])], f"bad_msgpack: more than {MAX_ELEMENTS}"),
    "more lists than allowed": ([nested([[]])], f"bad_msgpack: more than {MAX_ELEMENTS}"),
    "more in maps than allowed": (
        [msgpack.packb({str(n): {str(m): 1 for m in range(1000)} for n in range(MAX_ELEMENTS // 1000 + 1)})],
        f"bad_msgpack: more than {MAX_ELEMENTS}",
    ),
    "invalid utf-8": ([msgpack.packb([5, 1, 3, [b"\xa4\xff\xff\xff\xff"]]).replace(b"\xc4\x05", b"")], "bad_msgpack"),
    "map with a number as key": ([msgpack.packb({1: 2})], "bad_msgpack: .*not allowed for map key"),
    "extension type": ([msgpack.packb([5, 1, 3, msgpack.ExtType(5, b"x")])], "bad_msgpack: .*max_ext_len"),
    "timestamp": ([msgpack.packb([5, 1, 3, msgpack.Timestamp(1)])], "bad_msgpack: .*max_ext_len"),
    "empty extension type": ([msgpack.packb([5, 1, 3, msgpack.ExtType(5, b"")])], "bad_message"),
    "empty timestamp": ([b"\xc7\x00\xff"], "bad_msgpack"),
    "not an envelope": ([msgpack.packb({"seq": 1})], "bad_message: Expected `array`, got `object`"),
    "nothing": ([msgpack.packb(None)], "bad_message: Expected `array`, got `null`"),
    "envelope too short": ([msgpack.packb([5, 1, 3])], "bad_message: .*at least length 4"),
    "no message in the envelope": ([msgpack.packb([5, 1, 3, None])], "`envelope.message`"),
    "no tag": ([body()], "bad_message"),
    "unknown tag": ([body("gossip", 1)], "bad_message: Invalid value 'gossip' - at `message tag`"),
    "tag that is no word": ([body(7, 1)], "`message tag`"),
    "tag of a nested type": ([body("Segment", 1, 2, 3)], "bad_message: Invalid value 'Segment'"),
    "wrong type": ([body("heartbeat", "7")], "bad_message: Expected `int`, got `str` - at `heartbeat.seq`"),
    "float for a count": ([body("heartbeat", 7.0)], "`heartbeat.seq`"),
    "bool for a count": ([body("heartbeat", True)], "`heartbeat.seq`"),
    "nothing for a count": ([body("heartbeat", None)], "`heartbeat.seq`"),
    "text for a number": ([body("epoch_result", 0, 0, "m", "0.5", 0, 0.0, 0.0, 0.0)], "`epoch_result.metric_value`"),
    "unknown word": ([body("stop", "bored")], "`stop.reason`"),
    "wrong type in a list": (
        [body("batch", 0, 0, 0.0, ["<i8", 0, b""], ["<f4", 0, b""], [1, "x"], [])],
        r"`batch.rank_counts\[1\]`",
    ),
    "wrong type in a segment": (
        [body("batch", 0, 0, 0.0, ["<i8", 0, b""], ["<f4", 0, b""], [1], [[1, 0, "x"]])],
        r"`batch.segments\[0\]\[2\]`",
    ),
    "wrong type in a map": ([body("goodbye", "finished", {"wall_s": "long"})], r"`goodbye.figures\[\.\.\.\]`"),
    "bytes as the key of a map": ([body("goodbye", "finished", {b"wall_s": 1.0})], "`key` in `goodbye.figures`"),
    "negative seq": ([body("heartbeat", 7, seq=-1)], "Expected `int` >= 0 - at `envelope.seq`"),
    "negative span": ([body("heartbeat", 7, span=-1)], "`envelope.span`"),
    "negative ack": ([body("heartbeat", 7, ack=-1)], "`envelope.ack`"),
    "huge seq": ([body("heartbeat", 7, seq=(1 << 64) - 1)], "Expected `int` <= .*`envelope.seq`"),
    "negative count": ([body("loss_report", -5, -5, 0, ["<f4", 0, b""])], "`loss_report.step`"),
    "huge count": ([body("heartbeat", (1 << 62) + 1)], "`heartbeat.seq`"),
    "huge number": ([body("credit", (1 << 64) - 1)], "`credit.limit`"),
    "number far below zero": ([body("credit", -(1 << 63))], "`credit.limit`"),
    "name of a megabyte": ([body("hello", "boss", "x" * (1 << 20), "i", "d", 9)], "length <= 200 - at `hello.name`"),
    "no array": ([window(7)], r"bad_array: an array is \[dtype, length, buffer\] - at `window.ids`"),
    "array of two parts": ([window(["<i8", 0])], "bad_array: an array is .*`window.ids`"),
    "array of four parts": ([window(["<i8", 0, b"", b""])], "bad_array: an array is .*`window.ids`"),
    "float64": ([window(["<f8", 1, bytes(8)])], "bad_array: dtype '<f8' is not one of <i8, <f4 - at `window.ids`"),
    "objects": ([window(["|O", 1, bytes(8)])], r"bad_array: dtype '\|O'"),
    "big-endian": ([window([">i8", 1, bytes(8)])], "bad_array: dtype '>i8'"),
    "a structured dtype": ([window([[["a", "<i8"]], 1, bytes(8)])], "bad_array: dtype of type list"),
    "a number as dtype": ([window([7, 1, bytes(8)])], "bad_array: dtype of type int"),
    "floats where IDs are expected": ([window(["<f4", 2, bytes(8)])], "bad_array: dtype '<f4' where '<i8'"),
    "IDs where floats are expected": ([report(["<i8", 1, bytes(8)])], "bad_array: .* at `loss_report.losses`"),
    "length too small": ([window(["<i8", 1, bytes(16)])], "bad_array: length 1 does not match a buffer of 16 bytes"),
    "length too large": ([window(["<i8", 3, bytes(16)])], "bad_array: length 3 does not match"),
    "length below zero": ([window(["<i8", -1, b""])], "bad_array: length -1 does not match"),
    "length beyond all memory": ([window(["<i8", 1 << 63, bytes(8)])], "bad_array: length"),
    "part of an element": ([window(["<i8", 1, bytes(7)])], "bad_array: length 1 does not match a buffer of 7"),
    "bool as length": ([window(["<i8", True, bytes(8)])], "bad_array: length or buffer has the wrong type"),
    "float as length": ([window(["<i8", 1.0, bytes(8)])], "bad_array: length or buffer has the wrong type"),
    "text as buffer": ([window(["<i8", 1, "x" * 8])], "bad_array: length or buffer has the wrong type"),
    "nothing as buffer": ([window(["<i8", 0, None])], "bad_array: length or buffer has the wrong type"),
    "bool as frame": ([window(["<i8", 1, True]), bytes(8)], "bad_array: length or buffer has the wrong type"),
    "the body as frame": ([window(["<i8", 1, 0])], "bad_array: frame 0 of 1"),
    "frame out of range": ([window(["<i8", 1, 2]), bytes(8)], "bad_array: frame 2 of 2 does not exist"),
    "frame below zero": ([window(["<i8", 1, -1]), bytes(8)], "bad_array: frame -1 of 2"),
    "frame of another length": ([window(["<i8", 2, 1]), bytes(8)], "bad_array: length 2 does not match"),
    "no settings but a word": ([body(*HELLO, "default")], "Expected `object .* at `hello.settings`"),
    "setting of a wrong type": ([body(*HELLO, {"batch_size": "64"})], "`hello.settings.batch_size`"),
    "setting out of range": ([body(*HELLO, {"batch_size": 0})], "bad_message: batch_size=0: must be at least 1"),
    "patience that is not a number": ([body(*HELLO, {"patience_s": float("nan")})], "bad_message: patience_s=nan"),
    "settings that contradict": ([body(*HELLO, {"staleness_bound": 5})], "bad_message: staleness_bound=5"),
    "a step beyond all memory": ([body(*HELLO, {"batch_size": 1 << 40})], "bad_message: batch_size="),
}


@pytest.mark.parametrize("frames, words", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_a_message_of_ours_is_refused_with_its_cause(frames: list[bytes], words: str) -> None:
    with pytest.raises(ProtocolError, match=words) as refused:
        decode(frames)
    assert refused.value.cause in CAUSES
    assert len(str(refused.value)) < 300


def test_an_array_beyond_the_limit_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_ARRAY_BYTES + 8

    with pytest.raises(ProtocolError, match="bad_array"):
        unpack_array(np.typing.NDArray[np.int64], "<i8", MAX_ARRAY_BYTES // 8 + 1, Huge())


# Anything at all


def decodes_or_is_refused(frames: list[bytes]) -> None:
    """The one promise: an Envelope or a ProtocolError of a known cause, and no other exception."""
    try:
        assert isinstance(decode(frames), Envelope)
    except ProtocolError as error:
        assert error.cause in CAUSES


@FEW
@given(st.lists(st.binary(max_size=200), max_size=MAX_FRAMES + 2))
def test_random_bytes_never_raise_anything_but_a_protocol_error(frames: list[bytes]) -> None:
    decodes_or_is_refused(frames)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@FEW
@given(st.sampled_from(sorted(kind.__struct_config__.tag for kind in FIELDS)), st.lists(anything, max_size=12))  # type: ignore[attr-defined]
def test_a_known_tag_with_anything_behind_it_never_raises_anything_else(tag: str, fields: list[Any]) -> None:
    decodes_or_is_refused([body(tag, *fields)])


def flip(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    """Some bits of one frame."""
    place = rng.randrange(len(frames))
    changed = bytearray(frames[place])
    for _ in range(rng.randint(1, 4)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return [*frames[:place], bytes(changed), *frames[place + 1 :]]


def truncate(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    place = rng.randrange(len(frames))
    return [*frames[:place], frames[place][: rng.randint(0, len(frames[place]))], *frames[place + 1 :]]


def splice(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    """A piece of the body comes again somewhere else in it."""
    raw = frames[0]
    start, stop, at = sorted(rng.randint(0, len(raw)) for _ in range(3))
    return [raw[:at] + raw[start:stop] + raw[at:], *frames[1:]]


def drop_or_repeat_frame(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    place = rng.randrange(len(frames))
    return frames[:place] + frames[place + 1 :] if rng.random() < 0.5 else [*frames, frames[place]]


def change_a_value(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    """A whole value becomes another one, so the bytes stay msgpack and the types do not."""
    try:
        node = root = msgpack.unpackb(frames[0], strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return frames
    strange = [None, True, -1, (1 << 64) - 1, 0.5, "x", b"x", [], {}, [[]], {"a": 1}, ["<i8", 1, 1], ["|O", 1, b""]]
    while isinstance(node, list) and node:
        place = rng.randrange(len(node))
        if not isinstance(node[place], list) or rng.random() < 0.2:
            node[place] = rng.choice(strange)
            break
        node = node[place]
    return [msgpack.packb(root), *frames[1:]]


MUTATIONS: list[Callable[[random.Random, list[bytes]], list[bytes]]] = [
    flip,
    truncate,
    splice,
    drop_or_repeat_frame,
    change_a_value,
]


@FEW
@given(any_envelope, st.integers(0, 1 << 32), st.integers(1, 4))
def test_a_valid_message_that_was_damaged_never_raises_anything_else(sent: Envelope, seed: int, damages: int) -> None:
    rng = random.Random(seed)
    frames = encode(sent)
    for _ in range(damages):
        frames = rng.choice(MUTATIONS)(rng, frames) if frames else frames
    decodes_or_is_refused(frames)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_thousands_of_damaged_batches_never_raise_anything_else(mutation: Callable[..., list[bytes]]) -> None:
    batch = Batch(
        step=3,
        epoch=0,
        progress=0.5,
        ids=np.arange(9000),
        keep_probabilities=np.ones(40, np.float32),
        rank_counts=[20, 20],
        segments=[Segment(count=40, epoch=0, window=3, assistant="assistant-0", version=7, learned_through=2)],
    )
    frames = encode(Envelope(seq=4, span=1, ack=9, message=batch))
    refused = 0
    for seed in range(2000):
        damaged = mutation(random.Random(seed), frames)
        try:
            decode(damaged)
        except ProtocolError as error:
            assert error.cause in CAUSES, f"seed {seed}"
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {mutation.__name__} raised {error!r}") from error
    assert refused > 200
