"""How a Boss ends: by a signal that it hears wherever it stands, and only with its weights saved."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import zmq

from protocol.report import read_report
from tests.processes.launching import write_workload
from tests.processes.roles import DEADLINE_S, roles, start_broker

pytestmark = pytest.mark.processes
SOON_S = 60.0
"""Far less than a Boss may wait for its broker here."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_boss_that_waits_for_its_broker_hears_a_signal(number: signal.Signals) -> None:
    with roles() as start, zmq.Context() as context, closing(context.socket(zmq.ROUTER)) as silent:
        address = f"tcp://127.0.0.1:{silent.bind_to_random_port('tcp://127.0.0.1')}"
        boss = start("boss", "digits", "--broker", address, "--epochs", "1", "--connect-timeout-s", "600")
        assert silent.poll(1000 * int(DEADLINE_S)), "its Hello"
        boss.process.send_signal(number)
        assert boss.end(SOON_S) == 128 + signal.SIGINT, boss.text
    assert "Traceback" not in boss.text


def test_a_second_ctrl_c_ends_a_boss_whose_step_hangs(tmp_path: Path) -> None:
    hang = "if role == 'boss' and Odd.calls == 9:\n    print('it hangs', file=sys.stderr)\n    threading.Event().wait()"
    source = write_workload(tmp_path, "losses", hang)
    with roles() as start:
        _, address, _ = start_broker(start, tmp_path / "run")
        boss = start("boss", source, "--broker", address, "--epochs", "1", "--policy", "uniform")
        boss.wait_for("it hangs")
        boss.terminate()
        deadline = time.monotonic() + SOON_S
        while boss.process.poll() is None:  # pressed too fast they would be one
            assert time.monotonic() < deadline
            boss.process.send_signal(signal.SIGINT)
            threading.Event().wait(0.2)
        assert boss.end() == -signal.SIGINT, boss.text


def test_a_run_whose_weights_find_no_space_is_not_finished_and_goes_on_once_they_do(tmp_path: Path) -> None:
    (tmp_path / "boss.pt.part").symlink_to("/dev/full")
    words = ("run", "digits", "--epochs", "1", "--policy", "uniform", "--run-dir", str(tmp_path))
    with roles() as start:
        run = start(*words)
        assert run.end() != 0 and "No space left on device" in run.text, run.text
        assert read_report(tmp_path).status == "failed" and not (tmp_path / "boss.pt").exists()
        again = start("run", "--resume", str(tmp_path))
        assert again.end() == 0, again.text
    assert read_report(tmp_path).status == "finished" and (tmp_path / "boss.pt").exists()


def test_a_boss_that_has_not_trained_leaves_the_weights_of_another_alone(tmp_path: Path) -> None:
    weights = tmp_path / "boss.pt"
    weights.write_bytes(b"those of yesterday")
    told = tmp_path / "told"
    hang = (
        f"while role == 'boss' and Odd.calls == 2 and not __import__('os').path.exists({str(told)!r}):\n"
        "    print('it waits', file=sys.stderr)\n    threading.Event().wait(0.1)"
    )
    source = write_workload(tmp_path, "boss", hang)
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path / "run")
        boss = start(
            "boss", source, "--broker", address, "--epochs", "1", "--policy", "uniform", "--save", str(weights)
        )
        boss.wait_for("it waits")
        boss.terminate()
        told.touch()
        assert boss.end() == 0, boss.text
        assert broker.end() == 0, broker.text
    assert weights.read_bytes() == b"those of yesterday"
