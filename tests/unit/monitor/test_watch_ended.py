"""The page of a run that was over before anybody looked: it says so, and has its figures."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import zmq

from autoassist.monitor import watch as watching
from autoassist.monitor.board import Board
from autoassist.monitor.watch import Watch
from broker.addresses import write_addresses
from broker.run_lock import RunLock
from broker.store import DATABASE
from protocol.messages import PreviewReply
from protocol.statistics import RunStatistics, encode_statistics
from tests.unit.autoassist.report_runs import STEPS, write_run

NOBODY = "tcp://127.0.0.1:9"
DEADLINE_S = 30.0


class Listener:
    """A board that is told at once; keeps the steps of all that it is told."""

    def __init__(self) -> None:
        self.board = Board()
        self.steps: queue.Queue[int] = queue.Queue()
        self.failures: queue.Queue[str] = queue.Queue()

    def heard(self, statistics: RunStatistics) -> None:
        self.board.show(statistics)
        self.steps.put(statistics.trained_steps)

    def looked(self, reply: PreviewReply | None, trouble: str) -> None:
        self.board.show_instances(reply, trouble)

    def failed(self, why: str) -> None:
        self.board.fail(why)
        self.failures.put(why)

    def is_looking(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "AGAIN_S", 0.5)


def left(folder: Path, *, ended: str = "finished", statistics: str = NOBODY) -> Path:
    """A run whose broker is gone; it published there."""
    write_addresses(folder, address=NOBODY, statistics=statistics)
    return write_run(folder, ended=ended)


@contextmanager
def watched(target: Path) -> Iterator[Listener]:
    """What the page of ``target`` hears meanwhile."""
    listener = Listener()
    watch = Watch(str(target), None, listener)
    watch.start()
    try:
        yield listener
    finally:
        watch.close()


def publish(publisher: zmq.Socket[bytes], steps: int, *, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not until() and time.monotonic() < deadline:
        publisher.send(encode_statistics(RunStatistics(policy="uniform", trained_steps=steps)))
        time.sleep(0.02)


@pytest.mark.parametrize("ended", ["finished", "stopped"])
def test_the_page_of_a_run_that_is_over_says_how_it_ended_with_its_last_figures(tmp_path: Path, ended: str) -> None:
    with watched(left(tmp_path, ended=ended)) as listener:
        assert listener.steps.get(timeout=DEADLINE_S) == STEPS
    assert listener.board.state() == ("ended", f"The run is over: {ended}.")
    news = listener.board.news(0)
    assert news["now"]["trained_steps"] == STEPS and len(news["samples"]) == 1
    assert "no Assistant is there" in news["instances"]["trouble"]


def test_it_is_told_once_however_long_the_page_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "AGAIN_S", 0.01)
    with watched(left(tmp_path)) as listener:
        listener.steps.get(timeout=DEADLINE_S)
        with pytest.raises(queue.Empty):
            listener.steps.get(timeout=0.3)


def test_another_run_at_its_old_address_is_not_taken_for_it(tmp_path: Path, publisher: zmq.Socket[bytes]) -> None:
    """A broker on a fixed port, say, which serves another directory now."""
    address = publisher.getsockopt_string(zmq.LAST_ENDPOINT)
    with watched(left(tmp_path, statistics=address)) as listener:
        assert listener.steps.get(timeout=DEADLINE_S) == STEPS
        end = time.monotonic() + 1.0
        publish(publisher, 7, until=lambda: not listener.steps.empty() or time.monotonic() > end)
    assert listener.steps.empty()


def test_whoever_goes_on_with_it_is_heard(tmp_path: Path, publisher: zmq.Socket[bytes]) -> None:
    run_dir = left(tmp_path, ended="stopped")
    with watched(run_dir) as listener:
        assert listener.steps.get(timeout=DEADLINE_S) == STEPS
        with closing(RunLock(run_dir)):
            write_addresses(run_dir, address=NOBODY, statistics=publisher.getsockopt_string(zmq.LAST_ENDPOINT))
            publish(publisher, 21, until=lambda: not listener.steps.empty())
        assert listener.steps.get_nowait() == 21


def test_a_run_that_ends_while_the_page_is_open_keeps_its_last_sample(
    tmp_path: Path, publisher: zmq.Socket[bytes]
) -> None:
    """Its broker's last words are newer than what the directory tells."""
    run_dir = left(tmp_path, statistics=publisher.getsockopt_string(zmq.LAST_ENDPOINT))
    lock = RunLock(run_dir)
    with watched(run_dir) as listener:
        publish(publisher, 21, until=lambda: not listener.steps.empty())
        lock.close()
        time.sleep(3 * watching.AGAIN_S)
    heard = {listener.steps.get_nowait() for _ in range(listener.steps.qsize())}
    assert heard == {21}


def test_a_run_that_was_killed_is_waited_for_and_not_called_over(tmp_path: Path, publisher: zmq.Socket[bytes]) -> None:
    """A launcher may be about to start its broker again."""
    run_dir = left(tmp_path, ended="", statistics=publisher.getsockopt_string(zmq.LAST_ENDPOINT))
    (run_dir / "report.json").unlink()
    with watched(run_dir) as listener:
        publish(publisher, 21, until=lambda: not listener.steps.empty())
        assert listener.steps.get_nowait() == 21


def test_a_run_that_was_killed_and_stays_silent_is_explained_with_what_can_be_done(tmp_path: Path) -> None:
    run_dir = left(tmp_path, ended="")
    (run_dir / "report.json").unlink()
    with watched(run_dir) as listener:
        said = listener.failures.get(timeout=DEADLINE_S)
    assert "no broker of this machine serves it, so it was killed" in said
    assert f"autoassist report {run_dir} shows how far it came" in said
    assert listener.board.state() == ("waiting", said)


def test_a_run_whose_broker_is_there_and_silent_is_not_called_killed(tmp_path: Path) -> None:
    """It may be suspended, or write to a slow disk."""
    run_dir = left(tmp_path, ended="")
    with closing(RunLock(run_dir)), watched(run_dir) as listener, pytest.raises(queue.Empty):
        listener.failures.get(timeout=4 * watching.AGAIN_S)
    assert listener.board.state() == ("waiting", "Looking for the broker …")


def test_where_its_store_cannot_be_read_the_page_names_the_report(tmp_path: Path) -> None:
    run_dir = left(tmp_path)
    (run_dir / DATABASE).write_bytes(b"this is no database")
    with watched(run_dir) as listener:
        said = listener.failures.get(timeout=DEADLINE_S)
    assert said == f"{run_dir}: the run is over (finished), and its store cannot be read; see its report.json"
    assert listener.board.state() == ("waiting", said)
