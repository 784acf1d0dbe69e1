"""Append-only segment files: records one after the other, each with its length before it.

The store commits their lengths; what a file holds beyond its own was never committed, and the next writer cuts it off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

import msgspec

from broker.rows import WindowRecord, decode_window_record, encode_row
from protocol.codec import decode, encode
from protocol.errors import ProtocolError, StoreError
from protocol.messages import AnyMessage, Batch, Envelope, LossRecord

INDEX_EVERY = 64
"""Log records between two remembered offsets; reading a record skips at most this many."""

T = TypeVar("T")


class SegmentLog(Generic[T]):
    """The records of one file. ``length`` is committed by the store.

    Raises StoreError where the file is shorter than that, or not made of whole records. A file of length 0 need not be
    there for a reader: a run that an earlier version wrote lacks the logs that came after it.
    """

    def __init__(
        self,
        path: Path,
        length: int,
        *,
        to_bytes: Callable[[T], bytes],
        from_bytes: Callable[[bytes], T],
        writable: bool = True,
    ) -> None:
        self.path = path
        self.length = length
        self.records = 0
        self._to_bytes, self._from_bytes = to_bytes, from_bytes
        self._offsets: list[int] = []
        self._unwritten: list[bytes] = []
        self._file = self._open(writable)
        try:
            self._check(writable)
        except BaseException:
            self.close()
            raise

    def _open(self, writable: bool) -> BinaryIO:
        if writable:
            self.path.touch()
            return self.path.open("r+b")
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            return BytesIO()

    def _check(self, writable: bool) -> None:
        """Cut off what was never committed; find the records."""
        found = self._file.seek(0, os.SEEK_END)
        if found < self.length:
            raise self._damaged(f"has {found} bytes, {self.length} were committed")
        if writable:
            self._file.truncate(self.length)
        offset = 0
        while offset < self.length:
            self._note(offset)
            offset += 4 + self._size_at(offset)
        if offset != self.length:
            raise self._damaged("its last record is cut off")

    def _damaged(self, problem: str) -> StoreError:
        return StoreError(f"{self.path}: {problem}; restore the file or choose another --run-dir")

    def _size_at(self, offset: int) -> int:
        self._file.seek(offset)
        return int.from_bytes(self._file.read(4), "little")

    def _note(self, offset: int) -> None:
        if self.records % INDEX_EVERY == 0:
            self._offsets.append(offset)
        self.records += 1

    def append(self, record: T) -> None:
        """Buffer a record; ``flush`` before its length is committed."""
        raw = self._to_bytes(record)
        self._note(self.length)
        self._unwritten += (len(raw).to_bytes(4, "little"), raw)
        self.length += 4 + len(raw)

    def flush(self) -> None:
        """Hand everything to the operating system, in one piece."""
        if self._unwritten:
            raw = b"".join(self._unwritten)
            _write_at(self._file.fileno(), raw, self.length - len(raw))
            self._unwritten.clear()

    def read(self, start: int = 0, stop: int = 1 << 62) -> Iterator[T]:
        """Records ``start … stop-1``. Raises StoreError where one does not decode."""
        stop = min(stop, self.records)
        if start >= stop:
            return
        self.flush()
        offset = self._offsets[start // INDEX_EVERY]
        for number in range(start // INDEX_EVERY * INDEX_EVERY, stop):
            size = self._size_at(offset)
            if number >= start:
                yield self._decoded(number, self._file.read(size))
            offset += 4 + size

    def _decoded(self, number: int, raw: bytes) -> T:
        try:
            return self._from_bytes(raw)
        except (msgspec.MsgspecError, ProtocolError) as error:
            raise self._damaged(f"record {number} is damaged: {error}") from error

    def close(self) -> None:
        """Close the file. What a full disk does not take was never committed."""
        with suppress(OSError):
            self._file.close()


def _write_at(descriptor: int, raw: bytes, offset: int) -> None:
    """Past the file object's buffer, which serves reading alone: it holds nothing that is written anew."""
    left = memoryview(raw)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def loss_log(path: Path, length: int, *, writable: bool) -> SegmentLog[LossRecord]:
    """The loss records, in (step, rank) order."""
    return SegmentLog(path, length, to_bytes=_pack, from_bytes=_unpack(LossRecord), writable=writable)


def batch_log(path: Path, length: int, *, writable: bool) -> SegmentLog[Batch]:
    """The batches that all ranks have reported, in step order."""
    return SegmentLog(path, length, to_bytes=_pack, from_bytes=_unpack(Batch), writable=writable)


def window_log(path: Path, length: int, *, writable: bool) -> SegmentLog[WindowRecord]:
    """The windows, in the order in which they were decided."""
    return SegmentLog(path, length, to_bytes=encode_row, from_bytes=decode_window_record, writable=writable)


def _pack(message: AnyMessage) -> bytes:
    return msgspec.msgpack.encode(encode(Envelope(seq=0, span=1, ack=0, message=message)))


def _unpack(kind: type[T]) -> Callable[[bytes], T]:
    def unpack(raw: bytes) -> T:
        message = decode(msgspec.msgpack.decode(raw, type=list[bytes])).message
        if not isinstance(message, kind):
            raise ProtocolError("bad_message", f"a {type(message).__name__} where a {kind.__name__} is expected")
        return message

    return unpack
