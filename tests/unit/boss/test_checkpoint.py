"""The directory of checkpoints."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from boss.checkpoint import INDEX, BossState, CheckpointDir, CheckpointSettings, Saver, restore, under_elasticity
from protocol.errors import StoreError


def test_a_directory_that_cannot_be_made_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"checkpoints: .*file/below cannot be written .*give --checkpoint-dir"):
        CheckpointDir(tmp_path / "file" / "below", keep=2)


def state_of(boss: torch.nn.Module, optimizer: torch.optim.Optimizer, rng: dict[str, object]) -> BossState:
    return BossState(7, {"step": 7}, boss.state_dict(), optimizer.state_dict(), rng)


@pytest.fixture
def boss() -> torch.nn.Module:
    return torch.nn.Linear(2, 2)


@pytest.fixture
def optimizer(boss: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(boss.parameters(), lr=0.1)


def test_what_a_killed_boss_was_writing_is_removed_and_whole_checkpoints_stay(
    tmp_path: Path, boss: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    directory = CheckpointDir(tmp_path, keep=2)
    directory.publish(*directory.stage(state_of(boss, optimizer, {"cpu": torch.get_rng_state()})))
    (tmp_path / "boss-000000015.18600.part").write_bytes(b"half")
    again = CheckpointDir(tmp_path, keep=2)
    assert not list(tmp_path.glob("*.part"))
    found = again.newest()
    assert found is not None and found.step == 7


def test_an_index_that_finds_no_space_leaves_the_one_before_it_and_nothing_half_written(
    tmp_path: Path, boss: torch.nn.Module, optimizer: torch.optim.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = CheckpointDir(tmp_path, keep=2)
    state = state_of(boss, optimizer, {"cpu": torch.get_rng_state()})
    directory.publish(*directory.stage(state))
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write_bytes(path, content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    staged = directory.stage(replace(state, step=8))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        directory.publish(*staged)
    monkeypatch.undo()
    assert not list(tmp_path.glob("checkpoints.json.*"))
    assert [entry.step for entry in directory.entries()] == [7]


def test_each_rank_goes_on_with_its_own_random_numbers(boss: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append([torch.get_rng_state()])
    rng = {"cpu": states[0][0], "ranks": states}
    for rank, seed in ((0, 1), (1, 2)):
        restore(state_of(boss, optimizer, rng), boss, optimizer, rank=rank)
        drawn = torch.rand(3)
        torch.manual_seed(seed)
        assert torch.equal(drawn, torch.rand(3))


@pytest.mark.parametrize("restarts", ["0", "1"])
def test_ranks_that_torchrun_may_start_again_resume_the_first_time_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: str
) -> None:
    """On a node that joins later the first time is not the group's first."""
    settings = CheckpointSettings(checkpoint_every=5, checkpoint_dir=tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    assert under_elasticity(settings).resume == (restarts != "0")
    assert not under_elasticity(CheckpointSettings()).resume


def test_a_state_of_more_gpus_than_there_are_now_is_put_back_as_far_as_it_goes(
    boss: torch.nn.Module, optimizer: torch.optim.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_back: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", put_back.extend)
    of_gpus = [torch.full((4,), number, dtype=torch.uint8) for number in range(3)]
    restore(state_of(boss, optimizer, {"cpu": torch.get_rng_state(), "cuda": of_gpus}), boss, optimizer)
    assert [int(state[0]) for state in put_back] == [0]


def test_a_learning_rate_that_is_numpy_s_number_comes_back_from_a_checkpoint(
    tmp_path: Path, boss: torch.nn.Module
) -> None:
    rate, betas = np.float64(0.1), (np.float32(0.5), 0.75)
    optimizer = torch.optim.AdamW([{"params": boss.parameters(), "lr": rate, "betas": betas}])
    directory = CheckpointDir(tmp_path, keep=2)
    directory.publish(*directory.stage(state_of(boss, optimizer, {})))
    found = directory.newest()
    assert found is not None
    group = found.optimizer["param_groups"][0]
    assert (group["lr"], group["betas"]) == (0.1, (0.5, 0.75)) and type(group["lr"]) is float
    restore(replace(found, rng={"cpu": torch.get_rng_state()}), boss, optimizer)


def a_feed() -> MagicMock:
    feed = MagicMock(steps=5, rank=0, is_connected=True, has_diverged=False)
    feed.gather, feed.settings.world_size, feed.state_dict.return_value = (lambda value: [value]), 1, {}
    return feed


class Keeper(torch.nn.Linear):
    """Keeps more than tensors."""

    def get_extra_state(self) -> Path:
        return Path("notes")

    def set_extra_state(self, state: Path) -> None:
        """Nothing to put back."""


def test_a_checkpoint_that_could_not_be_read_back_does_not_count_and_the_warning_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    boss, feed = Keeper(2, 2), a_feed()
    saver = Saver(CheckpointDir(tmp_path, keep=2), every_steps=5)
    with caplog.at_level(logging.WARNING):
        assert not saver.save(feed, boss, torch.optim.SGD(boss.parameters(), lr=0.1))
    assert "no checkpoint of step 4" in caplog.text and "get_extra_state" in caplog.text and "pathlib" in caplog.text
    assert not list(tmp_path.iterdir()) and not feed.cut.called


def test_a_checkpoint_that_cannot_be_mapped_here_counts_all_the_same(
    tmp_path: Path, boss: torch.nn.Module, optimizer: torch.optim.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is larger than memory, or the disk knows no maps."""
    monkeypatch.setattr(torch, "load", MagicMock(side_effect=RuntimeError("unable to mmap")))
    directory = CheckpointDir(tmp_path, keep=2)
    assert Saver(directory, every_steps=5).save(a_feed(), boss, optimizer)
    assert [entry.step for entry in directory.entries()] == [4]


@pytest.mark.parametrize("damage", [b"nonsense", b'[{"step": 1, "file": "\xff", "sha256": ""}]', b"{}"])
def test_an_index_that_is_damaged_costs_checkpoints_and_not_the_training_and_the_warning_says_what_to_do(
    tmp_path: Path,
    boss: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    caplog: pytest.LogCaptureFixture,
    damage: bytes,
) -> None:
    directory = CheckpointDir(tmp_path, keep=2)
    saver = Saver(directory, every_steps=5)
    (tmp_path / INDEX).write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert not saver.save(a_feed(), boss, optimizer)
    (said,) = caplog.messages
    assert said.startswith(f"no checkpoint of step 4: {tmp_path / INDEX} is damaged; remove it")
    assert [path.name for path in tmp_path.iterdir()] == [INDEX], "what does not count is not left behind"
    (tmp_path / INDEX).unlink()
    assert saver.save(a_feed(), boss, optimizer)
    assert [entry.step for entry in directory.entries()] == [4]


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_ranks_one_says_that_a_checkpoint_was_missed(
    tmp_path: Path,
    boss: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    caplog: pytest.LogCaptureFixture,
    rank: int,
) -> None:
    feed = a_feed()
    feed.rank, feed.is_connected = rank, False
    with caplog.at_level(logging.WARNING):
        assert not Saver(CheckpointDir(tmp_path, keep=2), every_steps=5).save(feed, boss, optimizer)
    assert len(caplog.messages) == (1 if rank == 0 else 0)
