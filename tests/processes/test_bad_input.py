"""The user's mistakes: one clear error that names the thing and the remedy, exit code 2, no traceback."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.processes.roles import Role, roles, start_broker

pytestmark = pytest.mark.processes

MISTAKES = {
    "unknown workload": (("run", "digitz"), "digitz"),
    "missing workload file": (("run", "nowhere.py:Mine"), "nowhere.py"),
    "batch larger than the data": (("run", "digits", "--batch-size", "5000", "--staleness-bound", "500"), "5000"),
    "negative batch": (("run", "digits", "--batch-size", "-1"), "batch_size=-1"),
    "no epochs": (("run", "digits", "--epochs", "0"), "epochs=0"),
    "both budgets": (("run", "digits", "--epochs", "1", "--boss-instances", "9"), "boss_instances=9"),
    "bound below the pipeline": (("run", "digits", "--staleness-bound", "5"), "staleness_bound=5"),
    "no such device": (("run", "digits", "--device", "cuda"), "device=cuda"),
    "port out of range": (("broker", "--run-dir", "x", "--port", "70000"), "port=70000"),
    "open to the world": (("broker", "--run-dir", "x", "--host", "0.0.0.0"), "--insecure"),
    "strange address": (("assistant", "digits", "--broker", "localhost:5555"), "broker=localhost:5555"),
    "no run to export": (("export", "nowhere"), "holds no run"),
    "unknown command": (("trian",), "trian"),
}


@pytest.mark.parametrize("arguments, named", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_gets_one_clear_error_and_code_2(arguments: tuple[str, ...], named: str, tmp_path: Path) -> None:
    role = Role(*arguments, cwd=tmp_path)
    assert role.end() == 2, role.text
    errors = [line for line in role.said if line.startswith("error:")]
    assert len(errors) == 1 and named in errors[0], role.text
    assert "Traceback" not in role.text


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    role = Role("run", "digitz", "--debug", cwd=tmp_path)
    assert role.end() == 2
    assert "Traceback" in role.text


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        role = Role("run", "digits", "--port", str(port), "--run-dir", str(tmp_path))
        assert role.end() == 2
        assert f"127.0.0.1:{port} is in use" in role.text


def test_a_workload_that_breaks_while_training_ends_the_run_with_its_last_words(tmp_path: Path) -> None:
    source = tmp_path / "broken.py"
    source.write_text(
        "from workloads.digits import Digits\n\n\n"
        "class Broken(Digits):\n"
        "    calls = 0\n"
        "    def losses(self, outputs, targets):\n"
        "        Broken.calls += 1\n"
        "        if Broken.calls > 5:\n"
        "            raise ValueError('the loss exploded')\n"
        "        return super().losses(outputs, targets)\n"
    )
    role = Role("run", f"{source}:Broken", "--run-dir", str(tmp_path / "run"))
    assert role.end() == 1
    assert "boss-0 ended with code 1" in role.text and "the loss exploded" in role.text


def test_two_brokers_cannot_use_one_run_directory(tmp_path: Path) -> None:
    with roles() as start:
        broker, _, _ = start_broker(start, tmp_path)
        second = start("broker", "--run-dir", str(tmp_path), "--port", "0")
        assert second.end() == 2
        assert "another broker uses it" in second.text
        broker.terminate()
        assert broker.end() == 0, broker.text
