"""Messages to frames and back: msgpack for bytes, msgspec for types, arrays from an allow-list, no code ever.

An array of 64 KiB or more travels as a frame of its own, which ZeroMQ does not copy; the body then names the frame.

msgspec reads a body into its message in one go, several times as fast as msgpack and a conversion after it. What it
does not take, and what is long enough to hold more values than are allowed, goes the long way, which limits and
explains.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, get_args

import msgpack
import msgspec
import numpy as np

from protocol.arrays import pack_array, unpack_array
from protocol.errors import AutoAssistError, ProtocolError, SettingError
from protocol.message_base import Delivery
from protocol.messages import AnyMessage, Envelope

MAX_BODY_BYTES = 1 << 22
"""Several times the largest Batch, whose segments are by far the longest list that a body holds."""
MAX_ELEMENTS = 1 << 18
"""Values in all lists and maps of a body together. So a hostile body costs 30 ms and 30 MB at most."""
MAX_FRAMES = 16
OWN_FRAME_BYTES = 1 << 16

MESSAGE_TYPES: dict[Any, type[msgspec.Struct]] = {kind.__struct_config__.tag: kind for kind in get_args(AnyMessage)}
_PATH = re.compile(r"`\$\[(\d+)\](?:\[(\d+)\])?")


class _BadArray(ValueError):
    """Carries an array's fault through msgspec, which adds the path."""


def encode(envelope: Envelope) -> list[bytes]:
    """Envelope to frames: the body, then the large arrays."""
    body, frames = _pack(envelope)
    return [body, *frames]


def _pack(value: Envelope | AnyMessage) -> tuple[bytes, list[bytes]]:
    frames: list[bytes] = []

    def to_wire(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{type(value).__name__} cannot be sent")
        dtype, length, raw = pack_array(value)
        if len(raw) < OWN_FRAME_BYTES:
            return [dtype, length, raw]
        frames.append(raw)
        return [dtype, length, len(frames)]

    return msgspec.msgpack.encode(value, enc_hook=to_wire), frames


def raw_message(message: AnyMessage) -> msgspec.Raw | None:
    """A message as it stands in a body, for ``encode_around``; None where an array of it is a frame of its own."""
    raw, frames = _pack(message)
    return msgspec.Raw(raw) if not frames else None


def encode_around(envelope: Envelope, raw: msgspec.Raw) -> bytes:
    """The body of an envelope whose message is coded already."""
    return msgspec.msgpack.encode((envelope.seq, envelope.span, envelope.ack, raw))


def decode(frames: Sequence[bytes]) -> Envelope:
    """Frames to envelope.

    Raises ProtocolError with the field's path for anything that is not a message of ours.
    """
    if not frames or len(frames) > MAX_FRAMES:
        raise ProtocolError("bad_frames", f"{len(frames)} frames; between 1 and {MAX_FRAMES} are expected")
    if len(frames[0]) > MAX_BODY_BYTES:
        raise ProtocolError("oversized", f"body of {len(frames[0])} bytes exceeds {MAX_BODY_BYTES}")

    if len(frames[0]) <= MAX_ELEMENTS:  # so there are no more values in it than that
        try:
            envelope = _decode_quickly(frames)
            if envelope.message.delivery is not Delivery.SESSION:  # rare, and the most is at stake
                return envelope
        except (msgspec.MsgspecError, AutoAssistError, ValueError, RecursionError):
            pass
    return _decode_the_long_way(frames)


def _reader(frames: Sequence[bytes]) -> Callable[[type, Any], Any]:
    """Makes arrays of what stands for them in the body."""

    def from_wire(expected: type, value: Any) -> Any:
        if not isinstance(value, list) or len(value) != 3:
            raise _BadArray("an array is [dtype, length, buffer]")
        dtype, length, raw = value
        if isinstance(raw, int) and not isinstance(raw, bool):
            if not 1 <= raw < len(frames):
                raise _BadArray(f"frame {raw} of {len(frames)} does not exist")
            raw = frames[raw]
        try:
            return unpack_array(expected, dtype, length, raw)
        except ProtocolError as error:
            raise _BadArray(error.detail) from None

    return from_wire


_ONE_FRAME = msgspec.msgpack.Decoder(Envelope, dec_hook=_reader((b"",)))


def _decode_quickly(frames: Sequence[bytes]) -> Envelope:
    """Laxer than the long way in one point: what is in a field that is ignored is not looked at."""
    if len(frames) == 1:
        return _ONE_FRAME.decode(frames[0])
    return msgspec.msgpack.decode(frames[0], type=Envelope, dec_hook=_reader(frames))


def _decode_the_long_way(frames: Sequence[bytes]) -> Envelope:
    body = _unpack(frames[0])
    try:
        return msgspec.convert(body, Envelope, strict=True, dec_hook=_reader(frames))
    except SettingError as error:
        raise ProtocolError("bad_message", str(error)[:200]) from None
    except msgspec.ValidationError as error:
        cause = "bad_array" if isinstance(error.__cause__, _BadArray) else "bad_message"
        raise ProtocolError(cause, _with_field_names(str(error), body)[:200]) from None


def _unpack(raw: bytes) -> Any:
    left = MAX_ELEMENTS

    def count(container: Any) -> Any:
        nonlocal left
        left -= 1 + len(container)
        if left < 0:
            raise ValueError(f"more than {MAX_ELEMENTS} values")
        return container

    try:
        return msgpack.unpackb(
            raw,
            raw=False,
            strict_map_key=True,
            use_list=True,
            max_array_len=MAX_ELEMENTS,
            max_map_len=MAX_ELEMENTS,
            max_ext_len=0,
            list_hook=count,
            object_hook=count,
        )
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError("bad_msgpack", str(error)[:200] or type(error).__name__) from None


def _with_field_names(text: str, body: Any) -> str:
    """msgspec counts the fields of a list; ``$[3][7]`` says less than ``hello.settings``."""

    def name(path: re.Match[str]) -> str:
        place, inner = int(path[1]), path[2]
        if inner is None or place != Envelope.__struct_fields__.index("message"):
            return f"`envelope.{Envelope.__struct_fields__[place]}" + (f"[{inner}]" if inner is not None else "")
        kind = MESSAGE_TYPES.get(body[place][0]) if isinstance(body[place][0], str) else None
        if kind is None or inner == "0":
            return "`message tag"
        return f"`{body[place][0]}.{kind.__struct_fields__[int(inner) - 1]}"

    return _PATH.sub(name, text)
