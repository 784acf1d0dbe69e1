"""IDX files: what is written is read, and what is damaged is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import DataError
from workloads.idx import encode_idx, parse_idx, read_maybe_gzipped, unzip


@pytest.mark.parametrize("shape", [(4,), (3, 2), (2, 3, 5), (0, 28, 28), (2, 1, 3, 2)])
def test_round_trip(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, size=shape, dtype=np.uint8)
    again = parse_idx(encode_idx(array), where="x")
    assert again.shape == shape
    assert np.array_equal(again, array)


def test_header_is_the_documented_one() -> None:
    """Two zeros, type 8, number of dimensions, big-endian sizes: other programs must be able to read it."""
    assert encode_idx(np.zeros((2, 300), dtype=np.uint8))[:12] == bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 1, 44])


WHOLE = encode_idx(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (WHOLE[:-1], r"truncated, 23 bytes where shape \(3, 4\) needs 24"),
        (WHOLE[:7], "truncated in its header, 7 of 12 bytes"),
        (WHOLE + b"x", "too long, 25 bytes"),
        (b"\x89PNG" + WHOLE, r"not an IDX file \(starts with 89504e47\)"),
        (b"", r"not an IDX file \(starts with nothing\)"),
        (b"\0\0\x08\0", "not an IDX file"),
        (b"\0\0\x0d\x01" + WHOLE[4:], "IDX element type 0x0d, expected 0x08"),
    ],
)
def test_damage_is_named(content: bytes, complaint: str) -> None:
    with pytest.raises(DataError, match=f"my-file: {complaint}"):
        parse_idx(content, where="my-file")


def test_a_huge_size_in_the_header_is_refused_without_allocating() -> None:
    header = b"\0\0\x08\x03" + b"\xff" * 12
    with pytest.raises(DataError, match="truncated"):
        parse_idx(header, where="my-file")


def test_gzip_is_recognised_by_content_not_by_name(tmp_path: Path) -> None:
    for name, content in (("a", gzip.compress(WHOLE)), ("b.gz", WHOLE)):
        (tmp_path / name).write_bytes(content)
        assert read_maybe_gzipped(tmp_path / name) == WHOLE


@pytest.mark.parametrize("damage", [lambda z: z[:-9], lambda z: z[:15] + b"\xff\xff\xff" + z[18:], lambda z: z[:5]])
def test_damaged_gzip_is_a_data_error(damage: object) -> None:
    assert callable(damage)
    with pytest.raises(DataError, match="my-file: damaged or truncated gzip"):
        unzip(damage(gzip.compress(WHOLE)), where="my-file")


def test_unreadable_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*gone: No such file"):
        read_maybe_gzipped(tmp_path / "gone")
