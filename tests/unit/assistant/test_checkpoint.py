"""What an Assistant knows survives its process, by its own checkpoint."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from assistant.checkpoint import AssistantCheckpoint, read_checkpoint
from assistant.policies import AutoAssist, Moment
from protocol.messages import LossRecord

N = 500


def observe(policy: AutoAssist, rng: np.random.Generator, records: int) -> None:
    for position in range(records):
        ids = rng.choice(N, size=32, replace=False).astype(np.int64)
        policy.observe(
            LossRecord(
                position=position,
                step=position,
                rank=0,
                learned_through=position,
                epoch=position // 20,
                ids=ids,
                losses=rng.exponential(size=32).astype(np.float32) * (1 + ids % 3),
                keep_probabilities=rng.uniform(0.3, 1.0, size=32).astype(np.float32),
            )
        )


def make() -> AutoAssist:
    features = np.random.default_rng(9).normal(size=(N, 8)).astype(np.float32)
    return AutoAssist(N, floor=0.1, features=features, labels=np.arange(N) % 5)


def test_a_restored_policy_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole, first = make(), make()
    observe(whole, rng := np.random.default_rng(1), 60)
    observe(first, again := np.random.default_rng(1), 60)
    path = tmp_path / "a.npz"
    AssistantCheckpoint("run/0", 60, 59, first.state_dict()).write(path)
    saved = read_checkpoint(path)
    assert saved is not None and (saved.history, saved.position, saved.learned_through) == ("run/0", 60, 59)
    second = make()
    second.load_state_dict(saved.policy)
    observe(whole, rng, 60)
    observe(second, again, 60)
    moment = Moment(epoch=4, progress=0.5)
    assert np.array_equal(whole.keep_probability(np.arange(N), moment), second.keep_probability(np.arange(N), moment))
    for name, values in whole.state_dict().items():
        assert np.array_equal(values, second.state_dict()[name]), name


@pytest.mark.parametrize("damage", [b"", b"not a zip", b"PK\x03\x04 half"])
def test_a_damaged_checkpoint_is_left_aside_with_a_warning(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(damage)
    assert read_checkpoint(path) is None
    assert "rebuilding from the loss log" in caplog.text


def test_no_checkpoint_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_checkpoint(tmp_path / "none.npz") is None
    assert not caplog.text


def test_a_checkpoint_of_a_larger_data_set_is_refused() -> None:
    state = AutoAssist(3, floor=0.1).state_dict()
    with pytest.raises(ValueError):
        make().load_state_dict(state)


def test_a_checkpoint_that_finds_no_space_leaves_nothing_that_takes_it_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: IO[bytes], **arrays: object) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        AssistantCheckpoint("run/0", 5, 1, {}).write(tmp_path / "assistant-0.npz")
    assert not list(tmp_path.iterdir())
