"""What is looked at has the newest snapshot's loss, in pieces that the network's speed allows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from assistant.ahead import CHUNK
from assistant.boss_copy import BossCopy
from assistant.looker import PIECE_S, Fresh, Looking
from protocol.order import EpochOrder
from tests.unit.assistant.looked_at import DEADLINE_S, SEED, N, Scaled, Slow, offered, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "snapshot.pt"


@pytest.fixture
def looking(path: Path) -> Looking:
    return Looking(BossCopy(Scaled(), path), N, SEED)


def take(found: Iterator[Fresh], count: int) -> dict[int, float]:
    """So many losses."""
    losses: dict[int, float] = {}
    while len(losses) < count:
        fresh = next(found)
        assert len(fresh.ids) <= CHUNK
        losses |= dict(zip(fresh.ids.tolist(), fresh.losses.tolist(), strict=True))
    return losses


def test_what_is_soon_to_be_offered_has_the_loss_that_the_snapshot_gives_it(path: Path, looking: Looking) -> None:
    write(path, 2.0)
    looking.offered(offered(0, 0))
    found = take(looking.found(), 300)
    assert set(found) == set(EpochOrder(N, SEED, 0).ids(64, 364).tolist())
    assert all(loss == 2.0 * one for one, loss in found.items()) and looking.boss.step == 100


def test_it_begins_when_the_first_snapshot_is_there(path: Path, looking: Looking) -> None:
    found: dict[int, float] = {}
    thread = threading.Thread(target=lambda: found.update(take(looking.found(), 300)), daemon=True)
    looking.offered(offered(0, 0))
    thread.start()
    assert not found
    write(path, 2.0)
    thread.join(DEADLINE_S)
    assert len(found) == 300


def test_it_takes_each_newer_snapshot(path: Path, looking: Looking) -> None:
    looking.offered(offered(0, 0))
    write(path, 2.0)
    found = looking.found()
    take(found, 300)
    write(path, 3.0, step=200)
    looking.offered(offered(0, 448))
    assert all(loss == 3.0 * one for one, loss in take(found, 250).items()) and looking.boss.step == 200


def test_losses_that_are_not_finite_are_left_out(path: Path, looking: Looking) -> None:
    write(path, float("inf"))
    looking.offered(offered(0, 0))
    found = looking.found()
    assert not len(next(found).ids)
    write(path, 1.0)
    looking.offered(offered(0, 448))
    assert all(np.isfinite(loss) for loss in take(found, 250).values())


def test_that_no_loss_at_all_is_finite_is_told_once(
    path: Path, looking: Looking, caplog: pytest.LogCaptureFixture
) -> None:
    """A network that gives NaN in eval mode keeps a core busy for nothing."""
    caplog.set_level("INFO")
    write(path, float("inf"))
    looking.offered(offered(0, 0))
    found = looking.found()
    assert not len(next(found).ids) and "no finite losses" not in caplog.text  # a single one may be odd
    for _ in range(2):
        looking._piece = CHUNK
        next(found)
        assert caplog.text.count("finds no finite losses") == 1
    write(path, 1.0)
    looking.offered(offered(0, 448))
    take(found, 10)
    assert "over, after 2 times" in caplog.text


@pytest.mark.parametrize("damage", ["another network", "garbage"])
def test_a_snapshot_that_does_not_fit_is_told_and_the_next_one_taken(
    path: Path, looking: Looking, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    if damage == "garbage":
        path.write_bytes(b"no snapshot at all")
    else:
        write(path, 2.0, width=3)
    assert not looking.boss.refresh()
    assert caplog.text.count("no looking ahead until one fits") == 1 and caplog.text.count(str(path)) == 1
    assert ("it is damaged, or no snapshot" if damage == "garbage" else "size mismatch for weight") in caplog.text
    write(path, 2.0)
    looking.offered(offered(0, 0))
    assert len(take(looking.found(), 300)) == 300


def test_of_a_slow_network_few_are_looked_at_together(path: Path) -> None:
    """It hears between pieces only where the run is by now."""
    write(path, 2.0)
    looking = Looking(BossCopy(Slow(), path), N, SEED)
    looking.offered(offered(0, 0))
    take(looking.found(), 10)
    assert looking._piece <= PIECE_S / Slow.each_s


def test_of_a_fast_network_more_are_looked_at_together(path: Path, looking: Looking) -> None:
    write(path, 2.0)
    looking.offered(offered(0, 0))
    take(looking.found(), 300)
    assert looking._piece > 1


class Remembering(nn.Linear):
    """Keeps something beside its weights that is no tensor, as a running average of them may."""

    def get_extra_state(self) -> dict[str, float]:
        return {"best": 1.0}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Nothing to put back."""


class Kept(Scaled):
    """With such a network."""

    def boss(self) -> nn.Module:
        return Remembering(1, 1, bias=False)


def test_a_network_with_more_than_tensors_in_its_state_is_looked_ahead_with(path: Path) -> None:
    """A snapshot holds its tensors alone."""
    looking = Looking(BossCopy(Kept(), path), N, SEED)
    write(path, 2.0)
    looking.offered(offered(0, 0))
    assert all(loss == 2.0 * one for one, loss in take(looking.found(), 300).items())
