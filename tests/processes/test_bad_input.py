"""The user's mistakes: one clear error that names the thing and the remedy, exit code 2, no traceback."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.processes.conftest import Here
from tests.processes.heavy_digits import Pace
from tests.processes.roles import DEADLINE_S, HERE, Role, Statistics, roles, start_broker

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"

MISTAKES = {
    "unknown workload": (("run", "digitz"), "digitz"),
    "missing workload file": (("run", "nowhere.py:Mine"), "nowhere.py"),
    "workload without a method": (("run", "lacking.py:Mine"), "lacks batch, boss, evaluate, losses"),
    "no such model": (("run", "digits", "--model", "vgg"), "vgg"),
    "truncated data file": (("run", "fashion-mnist", "--data-dir", "torn"), "train-images-idx3-ubyte"),
    "no drain time": (("run", "digits", "--drain-s", "nan"), "drain_s=nan"),
    "negative restarts": (("run", "digits", "--boss-restarts", "-1"), "boss_restarts=-1"),
    "more ranks than the data has batches": (("run", "digits", "--ranks", "40"), "exceeds the data set's 1442"),
    "no name for the run": (("run", "digits", "--run-dir", ""), "--run-dir"),
    "a file as run directory": (("run", "digits", "--run-dir", "lacking.py"), "run_dir=lacking.py"),
    "nowhere to write": (("run", "digits", "--run-dir", "/proc/run"), "run_dir=/proc/run"),
    "no workload": (("run",), "workload"),
    "batch larger than the data": (("run", "digits", "--batch-size", "5000", "--staleness-bound", "500"), "5000"),
    "tokens without lengths": (("run", "digits", "--max-tokens", "512"), "max_tokens=512: needs the length of each"),
    "an instance longer than a batch": (
        ("run", f"{HERE / 'token_digits.py'}:TooLongDigits", "--max-tokens", "512"),
        "max_tokens=512: instance 17 is 5000 tokens long; raise --max-tokens to that",
    ),
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


LACKING = """
from workloads import Fingerprint, Workload


class Mine(Workload):
    def fingerprint(self):
        return Fingerprint("mine", 7)
"""


@pytest.mark.parametrize("arguments, named", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_gets_one_clear_error_and_code_2(
    arguments: tuple[str, ...], named: str, tmp_path: Path, here: Here
) -> None:
    (tmp_path / "lacking.py").write_text(LACKING)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "train-images-idx3-ubyte").write_bytes(bytes(100))
    before = sorted(tmp_path.rglob("*"))
    ended = here(*arguments, cwd=tmp_path)
    assert ended.code == 2, ended.text
    assert len(ended.errors) == 1 and ended.errors[0].startswith("error:") and named in ended.errors[0], ended.text
    assert "Traceback" not in ended.text
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts] == before


def test_a_mistake_is_the_exit_code_of_the_process_too(tmp_path: Path) -> None:
    role = Role("run", "digitz", cwd=tmp_path)
    assert role.end() == 2 and "Traceback" not in role.text
    (error,) = role.said
    assert error.startswith("error:") and "digitz" in error


def test_debug_adds_the_traceback(tmp_path: Path, here: Here) -> None:
    ended = here("run", "digitz", "--debug", cwd=tmp_path)
    assert ended.code == 2
    assert "Traceback" in ended.text


def test_a_broker_that_cannot_listen_leaves_the_run_directory_free(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        broker = Role("broker", "--port", port, "--run-dir", str(tmp_path / "run"))
        assert broker.end() == 2 and "is in use" in broker.text
    assert not (tmp_path / "run").exists()


def test_an_option_may_be_given_without_its_unit(tmp_path: Path, here: Here) -> None:
    ended = here("assistant", "--broker", "tcp://127.0.0.1:9", "--connect-timeout", "0.5", cwd=tmp_path)
    assert ended.code == 1
    assert "no broker answers" in ended.text


def test_a_port_in_use_is_named(tmp_path: Path, here: Here) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ("run", "digits", "--port", str(port), "--run-dir", str(tmp_path / "runs" / "mine"))
        ended = here(*words, cwd=tmp_path)
    assert ended.code == 2
    assert len(ended.errors) == 1 and f"127.0.0.1:{port} is in use" in ended.errors[0], ended.text
    assert not (tmp_path / "runs").exists()


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
    assert role.end() == 2
    assert (
        "boss-0 ended with code 2" in role.text and "Broken.losses() raised ValueError: the loss exploded" in role.text
    )


def test_two_brokers_cannot_use_one_run_directory(tmp_path: Path) -> None:
    with roles() as start:
        broker, _, _ = start_broker(start, tmp_path)
        second = start("broker", "--run-dir", str(tmp_path), "--port", "0")
        assert second.end() == 2
        assert f"by the broker with process ID {broker.process.pid}" in second.text
        broker.terminate()
        assert broker.end() == 0, broker.text


def test_a_broker_follows_at_once_on_one_that_still_waits_for_goodbyes(tmp_path: Path, pace: Pace) -> None:
    """Who kills a launcher and resumes its run must not have to wait for the broker that was left behind."""
    with roles() as start:
        first, address, statistics_address = start_broker(start, tmp_path, "--drain-s", str(DEADLINE_S))
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "50", environment=pace.environment)
        boss.wait_for("epoch 0:")
        pace.hold()  # alive, and in a step: one that was suspended would be missed after some seconds
        statistics = Statistics(statistics_address)
        before, now = -1, statistics.now().trained_steps
        while now != before:
            before, now = now, statistics.now().trained_steps
        statistics.close()
        first.terminate()
        second = start("broker", "--run-dir", str(tmp_path), "--port", "0", "--resume")
        second.wait_for("about to end")
        pace.hurry()
        second.wait_for("listening on")
        assert first.end() == boss.end() == 0, first.text + boss.text
