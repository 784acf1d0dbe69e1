"""The file in which a Boss leaves its weights: read back as it was written, or refused by name with a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from protocol.errors import DataError
from workloads.snapshot_files import read_snapshot, snapshot_content


def put(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_step_and_weights_are_read_back(tmp_path: Path) -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "seen": torch.tensor(7)}
    found = read_snapshot(put(tmp_path / "snapshot.pt", snapshot_content(12, weights)))
    assert found is not None and found[0] == 12
    assert {name: value.tolist() for name, value in found[1].items()} == {
        "a": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        "seen": 7,
    }


def test_there_may_be_none_yet(tmp_path: Path) -> None:
    assert read_snapshot(tmp_path / "snapshot.pt") is None


def cut(path: Path, left: float) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole))])
    return path


@pytest.mark.parametrize("left", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_named_with_a_remedy(tmp_path: Path, left: float) -> None:
    path = cut(put(tmp_path / "snapshot.pt", snapshot_content(1, {"a": torch.zeros(5000)})), left)
    with pytest.raises(DataError) as refused:
        read_snapshot(path)
    assert str(refused.value).startswith(f"{path}: ") and "--snapshots, or remove it" in str(refused.value)
    assert "\n" not in str(refused.value)


class Mine:
    """Something that only a program could read back."""


OTHERS: dict[str, Any] = {
    "weights alone": {"a": torch.zeros(3)},
    "a tensor": torch.zeros(3),
    "a checkpoint": {"step": 3, "run": {}, "boss": {"a": torch.zeros(3)}, "optimizer": {}, "rng": {}},
    "no step": {"step": None, "boss": {"a": torch.zeros(3)}},
    "a truth": {"step": True, "boss": {"a": torch.zeros(3)}},
    "no tensors": {"step": 3, "boss": {"a": 1.0}},
    "no names": {"step": 3, "boss": {1: torch.zeros(3)}},
    "code": {"step": 3, "boss": {"a": Mine()}},
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS.keys())
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    path = put(tmp_path / "snapshot.pt", content)
    with pytest.raises(DataError, match=r"snapshot\.pt: .*give the file of the Boss's --snapshots"):
        read_snapshot(path)


def test_a_text_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path / "notes.txt", tmp_path):
        with pytest.raises(DataError, match="give the file of the Boss's --snapshots"):
            read_snapshot(path)
