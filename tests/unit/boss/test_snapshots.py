"""Snapshots of the Boss's weights: whole, of their step, at their price, and never in training's way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import boss.snapshots
from boss.files import write
from boss.snapshots import Snapshots, SnapshotSettings
from protocol.errors import SettingError
from workloads.snapshot_files import read_snapshot

DEADLINE_S = 60.0


class Clock:
    """Stands still until it is set forward."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Gate:
    """Writes only once it is opened; says when the writer has come to it."""

    def __init__(self) -> None:
        self.reached, self.is_open = threading.Event(), threading.Event()

    def __call__(self, content: dict[str, Any], path: Path) -> None:
        self.reached.set()
        assert self.is_open.wait(DEADLINE_S)
        write(content, path)


def taker(path: Path, every: int = 10, clock: Callable[[], float] | None = None) -> Snapshots:
    """By a clock that stands still nothing takes time, and no rest is needed after it."""
    return Snapshots(SnapshotSettings(snapshots=path, snapshot_every=every), clock=clock or Clock())


def filled(value: float) -> nn.Linear:
    net = nn.Linear(3, 2)
    fill(net, value)
    return net


def fill(net: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)


def written(snapshots: Snapshots) -> tuple[int, float]:
    """(step, what the weights are filled with) of the file, once the writer has nothing to do."""
    assert snapshots._is_idle.wait(DEADLINE_S)
    found = read_snapshot(snapshots.path)
    assert found is not None
    step, weights = found
    (value,) = {float(v) for tensor in weights.values() for v in tensor.flatten()}
    return step, value


def said(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


def test_a_network_of_the_same_kind_takes_the_weights_up(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3).to(memory_format=torch.channels_last), nn.BatchNorm2d(4))

    net, other = make(), make()
    net(torch.randn(5, 1, 8, 8))  # the running means are part of it
    with taker(tmp_path / "snapshot.pt") as snapshots:
        snapshots.take(net, 9)
    found = read_snapshot(tmp_path / "snapshot.pt")
    assert found is not None and found[0] == 9
    other.load_state_dict(found[1])
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_weights_are_those_of_the_step_though_training_goes_on_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, net = Gate(), filled(1.0)
    monkeypatch.setattr(boss.snapshots, "write", gate)
    with taker(tmp_path / "snapshot.pt") as snapshots:
        snapshots.take(net, 9)
        fill(net, 2.0)
        assert gate.reached.wait(DEADLINE_S)
        gate.is_open.set()
        assert written(snapshots) == (9, 1.0)


def test_the_next_one_uses_the_same_memory(tmp_path: Path) -> None:
    net = filled(1.0)
    with taker(tmp_path / "snapshot.pt") as snapshots:
        snapshots.take(net, 9)
        assert written(snapshots) == (9, 1.0)
        places = [buffer.data_ptr() for buffer in snapshots._buffers.values()]
        fill(net, 2.0)
        snapshots.take(net, 19)
        assert written(snapshots) == (19, 2.0)
        assert [buffer.data_ptr() for buffer in snapshots._buffers.values()] == places
        snapshots.take(nn.Linear(4, 2).requires_grad_(False).apply(lambda net: fill(net, 3.0)), 29)
        assert written(snapshots) == (29, 3.0), "another network has other buffers"


def test_one_comes_after_so_many_steps_and_none_before(tmp_path: Path) -> None:
    with taker(tmp_path / "snapshot.pt", every=10) as snapshots:
        taken = []
        for step in range(30):
            snapshots.take(filled(step), step)
            taken.append(snapshots._last_step)
            assert snapshots._is_idle.wait(DEADLINE_S)
        assert sorted(set(taken)) == [-1, 9, 19, 29] and written(snapshots) == (29, 29.0)


def test_one_of_another_training_is_gone_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.pt"
    path.write_bytes(b"another training's")
    with Snapshots(SnapshotSettings(snapshots=path)):
        assert not path.exists()


def test_a_run_that_goes_on_has_one_at_once_and_one_that_is_taken_back_too(tmp_path: Path) -> None:
    """What lies there is of other steps."""
    with taker(tmp_path / "snapshot.pt") as snapshots:
        for step in (500, 400):
            snapshots.take(filled(step), step)
            assert written(snapshots) == (step, float(step))


def test_while_one_is_written_none_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr(boss.snapshots, "write", gate)
    with taker(tmp_path / "snapshot.pt") as snapshots:
        snapshots.take(filled(1.0), 9)
        assert gate.reached.wait(DEADLINE_S)
        snapshots.take(filled(2.0), 50)
        gate.is_open.set()
        assert written(snapshots) == (9, 1.0)
        snapshots.take(filled(3.0), 51)
        assert written(snapshots) == (51, 3.0)


def test_copying_and_writing_take_a_fiftieth_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()

    class Slow(nn.Linear):
        def state_dict(self, *arguments: Any, **named: Any) -> Any:
            clock.now_s += 0.5
            return super().state_dict(*arguments, **named)

    def slow(content: dict[str, Any], path: Path) -> None:
        write(content, path)
        clock.now_s += 1.5

    monkeypatch.setattr(boss.snapshots, "write", slow)
    with taker(tmp_path / "snapshot.pt", every=1, clock=clock) as snapshots:
        snapshots.take(Slow(1, 1), 0)
        assert snapshots._is_idle.wait(DEADLINE_S) and clock.now_s == 1002.0
        clock.now_s += 97.9
        snapshots.take(Slow(1, 1), 1)
        assert snapshots._last_step == 0
        clock.now_s += 0.2
        snapshots.take(Slow(1, 1), 2)
        assert snapshots._last_step == 2


def test_whoever_reads_sees_a_whole_file_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, path = [], tmp_path / "snapshot.pt"

    def in_pieces(content: dict[str, Any], part: Path) -> None:
        write(content, part)
        whole = part.read_bytes()
        part.write_bytes(whole[: len(whole) // 2])
        found = read_snapshot(path)
        seen.append(found and found[0])
        part.write_bytes(whole)

    monkeypatch.setattr(boss.snapshots, "write", in_pieces)
    with taker(path) as snapshots:
        for step in (9, 19, 29):
            snapshots.take(filled(step), step)
            assert written(snapshots) == (step, float(step))
    assert seen == [None, 9, 19] and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_once_and_once_more_where_it_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "snapshot.pt"
    with caplog.at_level(logging.INFO), taker(path) as snapshots:
        for step in (9, 19):
            (tmp_path / "snapshot.pt.part").symlink_to("/dev/full")
            snapshots.take(filled(step), step)
            assert snapshots._is_idle.wait(DEADLINE_S) and read_snapshot(path) is None
        snapshots.take(filled(3.0), 29)
        assert written(snapshots) == (29, 3.0)
    met, over = said(caplog, "snapshot.pt cannot be written (No space left on device)")
    assert met.startswith("snapshot: ") and "free space there" in met and "told once" in met
    assert over.startswith("over, after 2 times: snapshot: ")


def test_a_folder_that_is_not_there_yet_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), taker(tmp_path / "later" / "snapshot.pt") as snapshots:
        snapshots.take(filled(1.0), 9)
        assert snapshots._is_idle.wait(DEADLINE_S)
        (tmp_path / "later").mkdir()
        snapshots.take(filled(2.0), 19)
        assert written(snapshots) == (19, 2.0)
    assert len(said(caplog, "cannot be written (No such file or directory)")) == 2
    assert len(said(caplog, "over, after 1 times")) == 1


def test_a_file_that_cannot_be_put_in_its_place_leaves_nothing_beside_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "snapshot.pt").mkdir()
    with taker(tmp_path / "snapshot.pt") as snapshots:
        snapshots.take(filled(1.0), 9)
    assert said(caplog, "cannot be written (Is a directory)")
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot.pt"]


class Unwilling(nn.Linear):
    """Cannot say what its weights are."""

    def state_dict(self, *_: Any, **__: Any) -> Any:
        raise ValueError("not now")


def test_whatever_goes_wrong_training_hears_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def confused(content: dict[str, Any], path: Path) -> None:
        raise TypeError("what is this")

    with caplog.at_level(logging.INFO), taker(tmp_path / "snapshot.pt") as snapshots:
        snapshots.take(Unwilling(1, 1), 9)
        assert len(said(caplog, "cannot be written (ValueError: not now)")) == 1
        with monkeypatch.context() as patch:
            patch.setattr(boss.snapshots, "write", confused)
            snapshots.take(filled(1.0), 19)
            assert snapshots._is_idle.wait(DEADLINE_S)
        snapshots.take(filled(2.0), 29)
        assert written(snapshots) == (29, 2.0), "the thread lives on"
    assert len(said(caplog, "over, after 2 times")) == 1


def test_a_thread_that_cannot_be_started_is_trouble_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with taker(tmp_path / "snapshot.pt") as snapshots:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            snapshots.take(filled(1.0), 9)
        snapshots.take(filled(2.0), 19)
        assert written(snapshots) == (19, 2.0)
    assert said(caplog, "cannot be written (RuntimeError: can't start new thread)")


def test_a_network_that_is_too_large_has_none_which_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(boss.snapshots, "MOST_MIB", 3)
    large = nn.Linear(1024, 1024)
    with caplog.at_level(logging.INFO), taker(tmp_path / "snapshot.pt") as snapshots:
        for step in (9, 19):
            snapshots.take(large, step)
        assert snapshots._thread is None and not snapshots._buffers
    (line,) = said(caplog, "no snapshots of the Boss: its weights are 4 MiB, more than 3; ")
    assert caplog.records[0].levelno == logging.INFO and line.endswith("Assistants do not look ahead")
    assert not list(tmp_path.iterdir())


class Sharded(Tensor):
    """As FSDP's weights: of each this rank has a part."""


def test_a_sharded_network_has_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Module()
    net.register_buffer("part", torch.zeros(2).as_subclass(Sharded))
    with caplog.at_level(logging.INFO), taker(tmp_path / "snapshot.pt") as snapshots:
        snapshots.take(net, 9)
    assert said(caplog, "part is a Sharded") and not list(tmp_path.iterdir())


def test_the_end_finishes_what_is_written_ends_the_thread_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(boss.snapshots, "write", gate)
    snapshots = taker(tmp_path / "snapshot.pt")
    snapshots.take(filled(1.0), 9)
    thread = snapshots._thread
    assert thread is not None and gate.reached.wait(DEADLINE_S)
    gate.is_open.set()
    snapshots.close()
    assert not thread.is_alive() and written(snapshots) == (9, 1.0)
    snapshots.take(filled(2.0), 50)
    snapshots.close()
    assert written(snapshots) == (9, 1.0)


def test_the_thread_ends_with_a_training_that_raises(tmp_path: Path) -> None:
    settings = SnapshotSettings(snapshots=tmp_path / "snapshot.pt", snapshot_every=1)
    with pytest.raises(ZeroDivisionError), boss.snapshots.taking(settings) as snapshots:
        assert snapshots is not None
        snapshots.take(filled(1.0), 0)
        raise ZeroDivisionError
    assert snapshots._thread is not None and not snapshots._thread.is_alive()


def test_without_a_file_nothing_is_taken() -> None:
    with boss.snapshots.taking(SnapshotSettings()) as snapshots:
        assert snapshots is None
    with pytest.raises(SettingError, match=r"snapshots=None: .*snapshots=Path"):
        Snapshots(SnapshotSettings())


@pytest.mark.parametrize("every", [0, -5])
def test_a_number_of_steps_that_is_none_is_refused(every: int) -> None:
    with pytest.raises(SettingError, match=rf"snapshot_every={every}"):
        SnapshotSettings(snapshot_every=every)


class OnDevice(Tensor):
    """A tensor on a fake device, to and from which copies go in the background only."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        if func.__name__ in ("item", "cpu", "numpy", "tolist", "to", "clone"):
            raise AssertionError(f"{func.__name__} waits for the device")
        if func.__name__ == "copy_":
            assert kwargs == {"non_blocking": True}
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


class Behind:
    """An event behind copies that are done once the test says so."""

    is_over, waited_for, recorded = threading.Event(), threading.Event(), 0

    def __init__(self, *, blocking: bool) -> None:
        assert blocking

    def record(self, stream: object) -> None:
        """See torch.cuda.Event."""
        Behind.recorded += 1

    def synchronize(self) -> None:
        """See torch.cuda.Event."""
        assert threading.current_thread().name == "autoassist-snapshots", "training waits for the device"
        Behind.waited_for.set()
        assert Behind.is_over.wait(DEADLINE_S)


def test_a_device_is_waited_for_by_the_writer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Behind)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(Snapshots, "_buffer", lambda self, name, value: torch.zeros(value.shape))
    monkeypatch.setattr(boss.snapshots, "_why_not", lambda weights: "")
    net, path = nn.Module(), tmp_path / "snapshot.pt"
    net.state_dict = lambda: {"weight": torch.ones(3).as_subclass(OnDevice)}  # type: ignore[assignment, method-assign]
    with taker(path) as snapshots:
        snapshots.take(net, 9)
        assert Behind.recorded == 1 and Behind.waited_for.wait(DEADLINE_S) and read_snapshot(path) is None
        Behind.is_over.set()
        assert written(snapshots) == (9, 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_weights_on_a_gpu_are_those_of_the_step_too(tmp_path: Path) -> None:
    net = nn.Linear(2048, 2048).cuda()
    with taker(tmp_path / "snapshot.pt") as snapshots:
        for step in (9, 19, 29):
            fill(net, float(step))
            snapshots.take(net, step)
            fill(net, -1.0)
            assert written(snapshots) == (step, float(step))
            assert all(buffer.is_pinned() for buffer in snapshots._buffers.values())
