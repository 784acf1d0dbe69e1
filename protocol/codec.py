"""Messages to frames and back: msgpack for bytes, msgspec for types, arrays from an allow-list, no code ever.

An array of 64 KiB or more travels as a frame of its own, which ZeroMQ does not copy; the body then names the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import msgspec
import numpy as np

from protocol.arrays import pack_array, unpack_array
from protocol.errors import ProtocolError, SettingError
from protocol.messages import Envelope

MAX_BODY_BYTES = 1 << 24
MAX_FRAMES = 16
OWN_FRAME_BYTES = 1 << 16


def encode(envelope: Envelope) -> list[bytes]:
    """Envelope to frames: the body, then the large arrays."""
    frames: list[bytes] = []

    def to_wire(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{type(value).__name__} cannot be sent")
        dtype, length, raw = pack_array(value)
        if len(raw) < OWN_FRAME_BYTES:
            return [dtype, length, raw]
        frames.append(raw)
        return [dtype, length, len(frames)]

    body = msgspec.to_builtins(envelope, builtin_types=(bytes,), enc_hook=to_wire)
    return [msgpack.packb(body, use_bin_type=True), *frames]


def decode(frames: Sequence[bytes]) -> Envelope:
    """Frames to envelope.

    Raises ProtocolError with the field's path for anything that is not a message of ours.
    """
    if not frames or len(frames) > MAX_FRAMES:
        raise ProtocolError("bad_frames", f"{len(frames)} frames; between 1 and {MAX_FRAMES} are expected")
    if len(frames[0]) > MAX_BODY_BYTES:
        raise ProtocolError("oversized", f"body of {len(frames[0])} bytes exceeds {MAX_BODY_BYTES}")

    def from_wire(expected: type, value: Any) -> Any:
        if not isinstance(value, list) or len(value) != 3:
            raise ProtocolError("bad_array", "an array is [dtype, length, buffer]")
        dtype, length, raw = value
        if isinstance(raw, int):
            if not 1 <= raw < len(frames):
                raise ProtocolError("bad_array", f"frame {raw} of {len(frames)} does not exist")
            raw = frames[raw]
        return unpack_array(expected, dtype, length, raw)

    try:
        body = msgpack.unpackb(frames[0], raw=False, strict_map_key=True, max_ext_len=0, use_list=True)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError("bad_msgpack", str(error)[:200]) from None
    try:
        return msgspec.convert(body, Envelope, strict=True, dec_hook=from_wire)
    except (msgspec.ValidationError, SettingError) as error:
        raise ProtocolError("bad_message", str(error)[:200]) from None
