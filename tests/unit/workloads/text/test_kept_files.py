"""Files of the cache that a power loss has damaged are said, and made again as they were."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from protocol.sparse import SparseRows
from workloads.text.gpt import Gpt, kept_reference_losses
from workloads.text.sizes import SIZES
from workloads.text.subwords import Sequences, kept_sequences, kept_subwords
from workloads.text.tfidf import PARTS, _checked, kept_features

NPY_HEADER = 128
"""Bytes before an array's values."""
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) * 2 // 3],
    "without its last bytes": lambda content: content[:-3],
    "zeros in its header": lambda content: content[: NPY_HEADER // 2] + bytes(NPY_HEADER // 2) + content[NPY_HEADER:],
    "zeros but for its beginning": lambda content: content[:NPY_HEADER] + bytes(len(content) - NPY_HEADER),
}
TEXTS = [f"the {noun} number {number} is here" for noun in ("file", "folder", "letter") for number in range(30)]
BLOCKS = np.arange(3 * 9, dtype=np.int32).reshape(3, 9)

each_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@pytest.fixture(autouse=True)
def warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "autoassist.workloads")


def is_said(path: Path, caplog: pytest.LogCaptureFixture) -> bool:
    return any(f"{path}" in line and "making it again" in line for line in caplog.messages)


@each_damage
def test_a_damaged_vocabulary_is_learned_again(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.model"
    first = kept_subwords(path, TEXTS, 300)
    path.write_bytes(damage(first.model))
    again = kept_subwords(path, TEXTS, 300)
    assert path.read_bytes() == again.model == first.model
    assert is_said(path, caplog)


@each_damage
def test_damaged_sequences_are_encoded_again(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, made = tmp_path / "x.npz", (Sequences.of([[7, 8, 9] * 50, [4]]), Sequences.of([[5], [6, 7]]))
    kept_sequences(path, lambda: made)
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        found = kept_sequences(path, lambda: made)
        assert [s.tokens.tolist() for s in found] == [s.tokens.tolist() for s in made]
        assert [s.offsets.tolist() for s in found] == [s.offsets.tolist() for s in made]
    assert is_said(path, caplog) and len(caplog.messages) == 1


def test_an_archive_that_lacks_an_array_is_encoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, made = tmp_path / "x.npz", (Sequences.of([[7, 8]]),)
    np.savez(path, tokens0=made[0].tokens, unnamed=made[0].offsets)
    (found,) = kept_sequences(path, lambda: made)
    assert found.offsets.tolist() == [0, 2]
    assert is_said(path, caplog)


@pytest.mark.parametrize("part", PARTS)
@each_damage
def test_damaged_features_are_built_again(
    damage: Callable[[bytes], bytes], part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, sides = tmp_path / f"x-{part}.npy", [TEXTS, TEXTS[::-1]]
    kept_features(tmp_path / "x", lambda: sides)
    good = {name: (tmp_path / f"x-{name}.npy").read_bytes() for name in PARTS}
    path.write_bytes(damage(good[part]))
    assert kept_features(tmp_path / "x", lambda: sides) is not None
    assert {name: (tmp_path / f"x-{name}.npy").read_bytes() for name in PARTS} == good
    assert is_said(path, caplog)


@pytest.mark.parametrize("part", PARTS[:3])
def test_features_with_a_hole_of_zeros_are_built_again(
    part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"x-{part}.npy"
    kept_features(tmp_path / "x", lambda: [TEXTS])
    good = path.read_bytes()
    path.write_bytes(good[:256] + bytes(64) + good[320:])
    kept_features(tmp_path / "x", lambda: [TEXTS])
    assert path.read_bytes() == good
    assert is_said(path, caplog)


@pytest.mark.parametrize("begins", [[1, 1, 2, 3], [0, 1, 2, 2], [0, 2, 1, 3], [0, 0, 0, 0]])
def test_features_whose_rows_do_not_divide_the_values_are_damaged(begins: list[int]) -> None:
    columns = np.arange(3, dtype=np.int32)
    good = SparseRows(np.ones(3, np.float32), columns, np.arange(4), 3)
    assert _checked(good) is good
    with pytest.raises(ValueError, match="its rows are not those of 3 values"):
        _checked(SparseRows(good.values, columns, np.array(begins), 3))
    with pytest.raises(ValueError, match="its rows are not those of 3 values"):
        _checked(SparseRows(good.values, columns[:2], good.begins, 3))


@each_damage
def test_damaged_losses_of_a_reference_are_made_again(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(Gpt(SIZES["tiny"], 30, b"").state_dict(), tmp_path / "boss.pt")
    first = np.array(kept_reference_losses(tmp_path, tmp_path / "boss.pt", BLOCKS))
    (path,) = tmp_path.glob("reference-*.npy")
    path.write_bytes(damage(path.read_bytes()))
    assert np.array_equal(kept_reference_losses(tmp_path, tmp_path / "boss.pt", BLOCKS), first)
    assert is_said(path, caplog)


def test_losses_of_another_shape_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(Gpt(SIZES["tiny"], 30, b"").state_dict(), tmp_path / "boss.pt")
    first = np.array(kept_reference_losses(tmp_path, tmp_path / "boss.pt", BLOCKS))
    (path,) = tmp_path.glob("reference-*.npy")
    np.save(path, first[:-1])
    assert np.array_equal(kept_reference_losses(tmp_path, tmp_path / "boss.pt", BLOCKS), first)
    assert "float16 of shape (2, 8), expected float16 of (3, 8)" in caplog.text


def test_what_is_whole_is_made_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(Gpt(SIZES["tiny"], 30, b"").state_dict(), tmp_path / "boss.pt")
    for _ in range(2):
        kept_subwords(tmp_path / "x.model", TEXTS, 300)
        kept_features(tmp_path / "x", lambda: [TEXTS])
        kept_reference_losses(tmp_path, tmp_path / "boss.pt", BLOCKS)
        stamps = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == stamps
    assert not caplog.messages


def test_what_is_damaged_is_gone_where_it_cannot_be_made_again(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"")

    def fail() -> tuple[Sequences, ...]:
        raise RuntimeError("no texts")

    with pytest.raises(RuntimeError, match="no texts"):
        kept_sequences(path, fail)
    assert not path.exists()
