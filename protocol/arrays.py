"""The arrays that may travel, and nothing else: an allow-list of dtypes, little-endian, C order."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolError

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]

ALLOWED_DTYPES: dict[str, np.dtype[Any]] = {"<i8": np.dtype("<i8"), "<f4": np.dtype("<f4")}
_NAMES = {dtype: name for name, dtype in ALLOWED_DTYPES.items()}
MAX_ARRAY_BYTES = 1 << 24
"""16 MiB: twice the IDs of the largest step, small enough that a hostile length cannot hurt."""
MAX_TYPES = 64
"""Types of fields that are remembered; msgspec asks for two."""


def empty_i64() -> I64:
    """Shape ``(0,)``."""
    return np.empty(0, dtype=np.int64)


def empty_f32() -> F32:
    """Shape ``(0,)``."""
    return np.empty(0, dtype=np.float32)


def pack_array(array: NDArray[Any]) -> tuple[str, int, bytes]:
    """One-dimensional array to (dtype, length, raw bytes).

    Raises TypeError for a dtype outside the allow-list: that is a bug of ours, never a peer's.
    """
    known = _NAMES.get(array.dtype)
    if known is not None and array.ndim == 1:
        return known, len(array), array.tobytes()
    dtype = array.dtype.newbyteorder("<").str
    if dtype not in ALLOWED_DTYPES or array.ndim != 1:
        raise TypeError(f"array of dtype {array.dtype} and {array.ndim} dimensions is not on the wire's allow-list")
    return dtype, len(array), np.ascontiguousarray(array, dtype=ALLOWED_DTYPES[dtype]).tobytes()


_wire_names: dict[int, tuple[Any, str]] = {}


def _wire_name(expected: Any) -> str:
    """Looked up by identity: to compare or to take apart such a type costs more than to make the array."""
    known = _wire_names.get(id(expected))
    if known is None:
        name: str = np.dtype(get_args(get_args(expected)[1])[0]).newbyteorder("<").str
        if len(_wire_names) >= MAX_TYPES:
            return name
        known = _wire_names[id(expected)] = (expected, name)  # held, so that its identity stays its own
    return known[1]


def unpack_array(expected: Any, dtype: object, length: object, raw: object) -> NDArray[Any]:
    """(dtype, length, raw bytes) to a read-only array of the type ``expected`` (``I64`` or ``F32``).

    Raises ProtocolError for another dtype, a length that does not match the bytes, or an oversized array.
    """
    wanted = _wire_name(expected)
    if not isinstance(dtype, str) or dtype not in ALLOWED_DTYPES:
        given = repr(dtype) if isinstance(dtype, str) else f"of type {type(dtype).__name__}"
        raise ProtocolError("bad_array", f"dtype {given} is not one of {', '.join(ALLOWED_DTYPES)}")
    if dtype != wanted:
        raise ProtocolError("bad_array", f"dtype {dtype!r} where {wanted!r} is expected")
    if not isinstance(raw, (bytes, memoryview)) or not isinstance(length, int) or isinstance(length, bool):
        raise ProtocolError("bad_array", "length or buffer has the wrong type")
    nbytes = len(raw) if isinstance(raw, bytes) else raw.nbytes
    if nbytes > MAX_ARRAY_BYTES or length * ALLOWED_DTYPES[wanted].itemsize != nbytes:
        raise ProtocolError("bad_array", f"length {length} does not match a buffer of {nbytes} bytes")
    return np.frombuffer(raw, dtype=ALLOWED_DTYPES[wanted])
