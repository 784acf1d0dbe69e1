"""IDX, the file format of MNIST and its relatives: byte 3 counts the dimensions, big-endian sizes, then the bytes."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protocol.errors import DataError

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"


def parse_idx(content: bytes, *, where: str) -> NDArray[np.uint8]:
    """The array in ``content`` (uint8, read-only view without a copy); ``where`` names it in errors.

    Raises:
        DataError: not IDX, not of unsigned bytes, truncated, or longer than its header says.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[3] == 0:
        raise DataError(f"{where}: not an IDX file (starts with {content[:4].hex() or 'nothing'}); fetch it again")
    if content[2] != _UNSIGNED_BYTE:
        raise DataError(f"{where}: IDX element type 0x{content[2]:02x}, expected 0x08 (unsigned bytes); convert it")
    header_bytes = 4 + 4 * content[3]
    if len(content) < header_bytes:
        raise DataError(f"{where}: truncated in its header, {len(content)} of {header_bytes} bytes; fetch it again")
    shape = struct.unpack(f">{content[3]}I", content[4:header_bytes])
    expected_bytes = header_bytes
    size = 1
    for length in shape:
        size *= length
    expected_bytes += size
    if len(content) != expected_bytes:
        word = "truncated" if len(content) < expected_bytes else "too long"
        raise DataError(
            f"{where}: {word}, {len(content)} bytes where shape {shape} needs {expected_bytes}; fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes).reshape(shape)


def encode_idx(array: NDArray[np.uint8]) -> bytes:
    """``array`` (uint8, 1 to 255 dimensions) as an IDX file; the inverse of `parse_idx`."""
    header = struct.pack(f">HBB{array.ndim}I", 0, _UNSIGNED_BYTE, array.ndim, *array.shape)
    return header + array.tobytes()


def read_maybe_gzipped(path: Path) -> bytes:
    """Content of ``path``, unzipped where it is gzip by its first bytes, whatever its name.

    Raises:
        DataError: unreadable, or damaged gzip.
    """
    try:
        return unzip(path.read_bytes(), where=str(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error


def unzip(content: bytes, *, where: str) -> bytes:
    """``content`` unzipped if it is gzip, else as it is; DataError, naming ``where``, if the gzip is damaged."""
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{where}: damaged or truncated gzip ({error}); fetch it again") from error
