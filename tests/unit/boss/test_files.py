"""The Boss's files on a disk that does not take them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from boss import files
from boss.checkpoint import CheckpointDir, Saver
from protocol.errors import StoreError

SMALL, LARGE = 2, 100_000
"""Inputs of a layer: the disk says no when the file is closed, or amid what torch writes."""


def on_full_disk(part: Path) -> None:
    """Whatever is written there finds no space."""
    part.symlink_to("/dev/full")


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_weights_on_a_full_disk_are_an_error_that_names_file_reason_and_remedy(tmp_path: Path, size: int) -> None:
    """Torch would say ``unexpected pos 832 vs 726``."""
    path, part = tmp_path / "boss.pt", tmp_path / "boss.pt.part"
    on_full_disk(part)
    with pytest.raises(StoreError) as caught:
        files.save_weights(torch.nn.Linear(size, 1), path)
    assert f"{path} cannot be written (No space left on device); free space" in str(caught.value)
    assert "--resume" in str(caught.value) and not list(tmp_path.iterdir())


def test_weights_whose_folder_cannot_be_made_are_the_same_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"boss\.pt cannot be written \(Not a directory\)"):
        files.save_weights(torch.nn.Linear(1, 1), tmp_path / "file" / "folder" / "boss.pt")


def test_what_only_torch_has_to_say_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "save", MagicMock(side_effect=RuntimeError("out of luck\nframe #0: somewhere")))
    with pytest.raises(StoreError, match=r"cannot be written \(torch: out of luck\); free space"):
        files.save_weights(torch.nn.Linear(1, 1), tmp_path / "boss.pt")


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_checkpoint_on_a_full_disk_does_not_count_and_the_warning_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    boss = torch.nn.Linear(size, 1)
    feed = MagicMock(steps=5, rank=0, is_connected=True, has_diverged=False)
    feed.gather, feed.settings.world_size = lambda value: [value], 1
    feed.state_dict.return_value = {}
    saver = Saver(CheckpointDir(tmp_path, keep=2), every_steps=5)
    on_full_disk(tmp_path / f"boss-{4:09d}.{os.getpid()}.part")
    with caplog.at_level(logging.WARNING):
        assert not saver.save(feed, boss, torch.optim.SGD(boss.parameters()))
    (said,) = caplog.messages
    assert said.startswith(f"no checkpoint of step 4: {tmp_path}/boss-{4:09d}.pt cannot be written (No space left")
    assert said.endswith("; free space there or make it writable; the one before it still counts") and not list(
        tmp_path.iterdir()
    )
    feed.cut.assert_not_called()


def test_what_a_killed_boss_has_left_of_its_weights_goes_with_the_next_ones(tmp_path: Path) -> None:
    (tmp_path / "boss.pt.part").write_bytes(b"half")
    files.save_weights(torch.nn.Linear(1, 1), tmp_path / "boss.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["boss.pt"]
