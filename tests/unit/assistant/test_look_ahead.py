"""An Assistant looks ahead with the Boss's newest snapshot, and does without where there is none that fits."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assistant.ahead import CHUNK
from assistant.look_ahead import CLOSE_S, NICENESS, BossCopy, LookAhead
from assistant.worker import Assistant, AssistantSettings
from protocol.messages import Welcome, Window
from protocol.order import EpochOrder
from protocol.settings import RunSettings
from tests.unit.assistant.test_worker import NOBODY
from workloads.base import Fingerprint, Metric, Workload
from workloads.snapshot_files import snapshot_content

N, SEED, DEADLINE_S = 600, 3, 60.0


class Scaled(Workload):
    """Instance i has the input i; its loss is that times the network's one weight."""

    width = 1

    def fingerprint(self) -> Fingerprint:
        return Fingerprint("scaled", N)

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor(list(ids), dtype=torch.float32)[:, None]
        return rows, rows

    def boss(self) -> nn.Module:
        return nn.Linear(self.width, 1, bias=False)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs[:, 0]

    def evaluate(self, boss: nn.Module, device: torch.device) -> Metric:
        return Metric("none", 0.0)


class Broken(Scaled):
    """Its losses cannot be computed."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise ZeroDivisionError("no losses today")


class Slow(Scaled):
    """A chunk of it takes longer than the thread may take to end."""

    each_s = 0.05

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        time.sleep(self.each_s * len(ids))
        return super().batch(ids)


def write(path: Path, weight: float, *, step: int = 100, width: int = 1) -> None:
    part = path.with_suffix(".part")
    torch.save(snapshot_content(step, {"weight": torch.full((1, width), weight)}), part)
    part.replace(path)


def window(epoch: int, start: int, size: int = 64) -> Window:
    return Window(
        window=0, attempt=0, epoch=epoch, progress=0.5, ids=EpochOrder(N, SEED, epoch).ids(start, start + size)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "snapshot.pt"


@pytest.fixture
def look_ahead(path: Path) -> Iterator[LookAhead]:
    found = LookAhead(BossCopy(Scaled(), path))
    found.start(N, SEED)
    yield found
    found.close()
    assert not any(thread.name == "autoassist-look-ahead" for thread in threading.enumerate())


def losses_of(look_ahead: LookAhead, count: int) -> dict[int, float]:
    """So many, once they are found."""
    found: dict[int, float] = {}
    pause, looks = threading.Event(), int(DEADLINE_S / 0.01)
    for _ in range(looks):
        for fresh in look_ahead.collect():
            found |= dict(zip(fresh.ids.tolist(), fresh.losses.tolist(), strict=True))
        if len(found) >= count:
            return found
        pause.wait(0.01)
    raise AssertionError(f"{len(found)} losses of {count} after {DEADLINE_S} s")


def test_what_is_soon_to_be_offered_has_the_loss_that_the_snapshot_gives_it(path: Path, look_ahead: LookAhead) -> None:
    write(path, 2.0)
    look_ahead.offered(window(0, 0))
    found = losses_of(look_ahead, 300)
    assert set(found) == set(EpochOrder(N, SEED, 0).ids(64, 364).tolist())
    assert all(loss == 2.0 * one for one, loss in found.items()) and look_ahead.boss.step == 100


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
def test_it_comes_last_and_leaves_the_assistants_own_thread_as_it_was(path: Path, look_ahead: LookAhead) -> None:
    write(path, 2.0)
    look_ahead.offered(window(0, 0))
    losses_of(look_ahead, 300)
    assert look_ahead._thread.native_id is not None
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert os.getpriority(os.PRIO_PROCESS, look_ahead._thread.native_id) == max(own, NICENESS)


def test_it_begins_when_the_first_snapshot_is_there_and_takes_each_newer_one(path: Path, look_ahead: LookAhead) -> None:
    look_ahead.offered(window(0, 0))
    write(path, 2.0)
    losses_of(look_ahead, 300)
    write(path, 3.0, step=200)
    look_ahead.offered(window(0, 448))
    found = losses_of(look_ahead, 250)
    assert all(loss == 3.0 * one for one, loss in found.items()) and look_ahead.boss.step == 200


def test_losses_that_are_not_finite_are_left_out(path: Path, look_ahead: LookAhead) -> None:
    write(path, float("inf"))
    look_ahead.offered(window(0, 0))
    losses_of(look_ahead, 0)
    write(path, 1.0)
    look_ahead.offered(window(0, 448))
    assert all(np.isfinite(loss) for loss in losses_of(look_ahead, 250).values())


@pytest.mark.parametrize("damage", ["another network", "garbage"])
def test_a_snapshot_that_does_not_fit_is_told_and_the_next_one_taken(
    path: Path, look_ahead: LookAhead, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    if damage == "garbage":
        path.write_bytes(b"no snapshot at all")
    else:
        write(path, 2.0, width=3)
    assert not look_ahead.boss.refresh()
    assert caplog.text.count("no looking ahead until one fits") == 1 and caplog.text.count(str(path)) == 1
    assert ("it is damaged, or no snapshot" if damage == "garbage" else "size mismatch for weight") in caplog.text
    write(path, 2.0)
    look_ahead.offered(window(0, 0))
    assert len(losses_of(look_ahead, 300)) == 300


def test_a_workload_whose_losses_fail_ends_the_looking_and_nothing_else(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, 2.0)
    broken = LookAhead(BossCopy(Broken(), path))
    broken.start(N, SEED)
    broken.offered(window(0, 0))
    broken._thread.join(DEADLINE_S)
    broken.close()
    assert "no looking ahead any more" in caplog.text and "no losses today" in caplog.text
    assert broken.collect() == []


def test_it_ends_soon_however_long_a_network_takes(path: Path) -> None:
    """A process that exits while a thread is within torch aborts."""
    assert Slow.each_s * CHUNK > 2 * CLOSE_S
    write(path, 2.0)
    slow = LookAhead(BossCopy(Slow(), path))
    slow.start(N, SEED)
    slow.offered(window(0, 0))
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.01)):
        if slow._piece > 1:
            break
        pause.wait(0.01)
    slow.close()
    assert slow._piece < CHUNK and not slow._thread.is_alive()


def test_of_a_fast_network_more_is_looked_at_together(path: Path, look_ahead: LookAhead) -> None:
    write(path, 2.0)
    look_ahead.offered(window(0, 0))
    losses_of(look_ahead, 300)
    assert look_ahead._piece > 1


def joined(path: Path, settings: RunSettings) -> Assistant:
    look_ahead = LookAhead(BossCopy(Scaled(), path))
    assistant = Assistant(AssistantSettings(), NOBODY, look_ahead=look_ahead)
    assistant._join(Welcome(run_id="run", stream="s", settings=settings, position=0, n=N))
    return assistant


def leave(assistant: Assistant) -> None:
    assert assistant.look_ahead is not None
    assistant.look_ahead.close()
    assistant.client.close()
    assistant.tables.close()


def test_an_assistant_that_gets_a_window_hands_its_policy_what_comes_after(path: Path) -> None:
    write(path, 2.0)
    assistant = joined(path, RunSettings(seed=SEED))
    try:
        assistant._take(window(0, 0))
        assert assistant.core is not None and assistant.look_ahead is not None
        pause = threading.Event()
        for _ in range(int(DEADLINE_S / 0.01)):
            assistant._collect(assistant.core)
            if assistant.core.figures.get("instances_looked_at", 0) >= 300:
                break
            pause.wait(0.01)
        assert assistant.core.figures["instances_looked_at"] == 300
    finally:
        leave(assistant)


@pytest.mark.parametrize("settings", [RunSettings(policy="infobatch"), RunSettings(deterministic=True)])
def test_it_does_not_look_where_that_is_of_no_use_or_would_depend_on_a_clock(
    path: Path, settings: RunSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(path, 2.0)
    assistant = joined(path, settings)
    try:
        assistant._take(window(0, 0))
        assert assistant.look_ahead is not None and assistant.look_ahead._thread.ident is None
    finally:
        leave(assistant)
