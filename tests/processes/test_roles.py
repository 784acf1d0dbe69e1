"""One role each, started by hand, in any order; killed in the middle."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from protocol.report import read_report
from tests.processes.roles import HERE, Statistics, export, roles, start_broker

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_roles_find_each_other_in_any_order(tmp_path: Path) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with roles() as start:
        assistant = start("assistant", "digits", "--broker", address)
        boss = start("boss", "digits", "--broker", address, "--epochs", "2")
        assistant.wait_for("waiting for the broker")
        boss.wait_for("waiting for the broker")
        broker = start("broker", "--run-dir", str(tmp_path), "--port", str(port))
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
    assert read_report(tmp_path).status == "finished"


def test_a_killed_assistant_is_replaced_by_unfiltered_batches_and_then_by_another(tmp_path: Path) -> None:
    """kill -9 in the middle: the Boss does not wait; an Assistant started by hand takes up filtering again."""
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path)
        statistics = Statistics(statistics_address)
        first = start("assistant", HEAVY, "--broker", address, "--name", "first")
        first.wait_for("waiting for the broker")
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "40")
        statistics.wait_until(lambda s: s.epoch >= 2 and s.kept < s.offered, "filtering")
        first.kill()
        before = statistics.wait_until(lambda s: True, "statistics")
        gone = statistics.wait_until(lambda s: s.unfiltered > before.unfiltered + s.n, "a whole epoch unfiltered")
        second = start("assistant", HEAVY, "--broker", address, "--name", "second")
        statistics.wait_until(
            lambda s: any(p.name == "second" and p.windows > 10 for p in s.peers), "windows of the second"
        )
        again = statistics.wait_until(lambda s: s.epoch > gone.epoch + 1 or bool(s.ended), "an epoch later")
        statistics.close()
        assert again.offered - again.unfiltered > gone.offered - gone.unfiltered
        assert boss.end() == 0, boss.text
        assert second.end() == 0, second.text
        assert broker.end() == 0, broker.text
    report = read_report(tmp_path)
    assert report.status == "finished"
    assert report.boss.exposed_wait_fraction <= 0.02
    unfiltered = [e.unfiltered_fraction for e in report.selection.epochs]
    assert max(unfiltered[before.epoch : gone.epoch + 1]) > 0.5 > unfiltered[1]
    last = {s["assistant"] for batch in export(tmp_path) if batch["epoch"] >= gone.epoch + 1 for s in batch["segments"]}
    assert "second" in last and "first" not in last


def test_an_assistant_with_another_data_set_is_refused_and_the_run_goes_on(tmp_path: Path) -> None:
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path)
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "8")
        boss.wait_for("epoch 0:")
        other = tmp_path / "other.py"
        other.write_text(
            "from workloads import Fingerprint\nfrom workloads.digits import Digits\n\n\n"
            "class Other(Digits):\n    def fingerprint(self):\n        return Fingerprint('other', 7)\n"
        )
        assistant = start("assistant", f"{other}:Other", "--broker", address)
        assert assistant.end() == 2
        assert "error: the broker refuses" in assistant.text and "n=7" in assistant.text
        assert boss.end() == 0, boss.text
        assert broker.end() == 0, broker.text


def test_a_second_boss_is_refused_while_the_first_trains_on(tmp_path: Path) -> None:
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path)
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "12")
        boss.wait_for("epoch 0:")
        second = start("boss", HEAVY, "--broker", address, "--epochs", "12")
        assert second.end() == 2
        assert "another process is already boss-0" in second.text
        other = start("boss", HEAVY, "--broker", address, "--epochs", "7")
        assert other.end() == 2
        assert "epochs: 12 here, 7 there" in other.text
        assert boss.end() == 0, boss.text
        assert broker.end() == 0, broker.text


def test_a_broker_that_is_not_there_is_given_up_with_the_remedy() -> None:
    with roles() as start:
        boss = start(*("boss", "digits", "--broker", f"tcp://127.0.0.1:{free_port()}", "--connect-timeout-s", "0.5"))
        assert boss.end() == 1
        assert "error: no broker answers at tcp://127.0.0.1" in boss.text and "--connect-timeout-s" in boss.text
        assert "Traceback" not in boss.text


def test_not_finite_losses_are_counted_and_never_learned_from(tmp_path: Path) -> None:
    source = tmp_path / "nan_digits.py"
    source.write_text(
        "import torch\nfrom workloads.digits import Digits\n\n\n"
        "class NanDigits(Digits):\n"
        "    def losses(self, outputs, targets):\n"
        "        losses = super().losses(outputs, targets)\n"
        "        mask = torch.zeros_like(losses)\n"
        "        mask[0] = float('nan')\n"
        "        return losses + mask if len(losses) > 2 else losses\n"
    )
    with roles() as start:
        run = start("run", f"{source}:NanDigits", "--epochs", "2", "--run-dir", str(tmp_path / "run"))
        assert run.end() == 0, run.text
    report = read_report(tmp_path / "run")
    assert report.loss_reports.values_not_finite == report.boss.steps
    assert report.assistants[0].figures["instances_learned"] <= report.boss.instances - report.boss.steps + 64
