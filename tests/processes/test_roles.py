"""One role each, started by hand, in any order; killed in the middle."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from protocol.report import read_report
from tests.faults.test_broker_outage import assert_hardly_a_wait, assert_nothing_lost_or_doubled
from tests.processes.heavy_digits import Pace
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
        assistant = start("assistant", HEAVY, "--broker", address)
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "4")
        assistant.wait_for("waiting for the broker")
        boss.wait_for("waiting for the broker")
        broker = start("broker", "--run-dir", str(tmp_path), "--port", str(port))
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
    assert read_report(tmp_path).status == "finished"


def test_a_killed_assistant_is_replaced_by_unfiltered_batches_and_then_by_another(tmp_path: Path, pace: Pace) -> None:
    """kill -9 in the middle: the Boss does not wait; an Assistant started by hand takes up filtering again."""
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path)
        statistics = Statistics(statistics_address)
        first = start("assistant", HEAVY, "--broker", address, "--name", "first")
        first.wait_for("waiting for the broker")
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "80", environment=pace.environment)
        statistics.wait_until(lambda s: s.epoch >= 2 and s.kept < s.offered, "filtering")
        first.kill()
        before = statistics.now()
        gone = statistics.wait_until(lambda s: s.unfiltered > before.unfiltered + s.n, "a whole epoch unfiltered")
        second = start("assistant", HEAVY, "--broker", address, "--name", "second")
        statistics.wait_until(
            lambda s: any(p.name == "second" and p.windows > 10 for p in s.peers), "windows of the second"
        )
        again = statistics.wait_until(lambda s: s.epoch > gone.epoch + 1 or bool(s.ended), "an epoch later")
        pace.hurry()
        statistics.close()
        assert_hardly_a_wait(again)
        assert again.offered - again.unfiltered > gone.offered - gone.unfiltered
        assert boss.end() == 0, boss.text
        assert second.end() == 0, second.text
        assert broker.end() == 0, broker.text
    report = read_report(tmp_path)
    assert report.status == "finished"
    unfiltered = [e.unfiltered_fraction for e in report.selection.epochs]
    assert max(unfiltered[before.epoch : gone.epoch + 1]) > 0.5 > unfiltered[1]
    last = {s["assistant"] for batch in export(tmp_path) if batch["epoch"] >= gone.epoch + 1 for s in batch["segments"]}
    assert "second" in last and "first" not in last


def test_an_assistant_with_another_data_set_is_refused_and_the_run_goes_on(tmp_path: Path, pace: Pace) -> None:
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path)
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "60", environment=pace.environment)
        boss.wait_for("epoch 0:")
        other = tmp_path / "other.py"
        other.write_text(
            "from workloads import Fingerprint\nfrom workloads.digits import Digits\n\n\n"
            "class Other(Digits):\n    def fingerprint(self):\n"
            "        return Fingerprint('other', super().fingerprint().n)\n"
        )
        assistant = start("assistant", f"{other}:Other", "--broker", address)
        assert assistant.end() == 2
        assert "error: the broker refuses" in assistant.text and "data set other" in assistant.text
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert broker.end() == 0, broker.text


def test_a_second_boss_is_refused_while_the_first_trains_on(tmp_path: Path, pace: Pace) -> None:
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path)
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "60", environment=pace.environment)
        boss.wait_for("epoch 0:")
        pace.hold()
        second = start("boss", HEAVY, "--broker", address, "--epochs", "60")
        assert second.end() == 2
        assert "another process is already boss-0" in second.text
        other = start("boss", HEAVY, "--broker", address, "--epochs", "7")
        assert other.end() == 2
        assert "epochs: 60 here, 7 there" in other.text
        pace.hurry()
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
        "from workloads.digits import Digits\n\n\n"
        "class NanDigits(Digits):\n"
        "    def batch(self, ids):\n"
        "        inputs, targets = super().batch(ids)\n"
        "        inputs[[i for i, id_ in enumerate(ids) if id_ in (7, 8)]] = float('nan')\n"
        "        return inputs, targets\n"
    )
    with roles() as start:
        words = ("--epochs", "5", "--deterministic")  # so its Assistant learns, however late it comes
        run = start("run", f"{source}:NanDigits", *words, "--run-dir", str(tmp_path / "run"))
        assert run.end() == 0, run.text
    report, losses = read_report(tmp_path / "run"), export(tmp_path / "run", "losses")
    not_finite = [row["id"] for row in losses if row["loss"] is None]
    assert {7, 8} == set(not_finite) and len(not_finite) == report.loss_reports.values_not_finite
    assert report.assistants[0].figures["instances_learned"] <= report.boss.instances - len(not_finite)
    assert run.text.count("are NaN or infinite, of instances") == 2, "once when it happens, once after the summary"
    assert report.metric.value is not None and report.metric.value > 0.9, "the network is not ruined"


def test_a_network_that_has_diverged_ends_the_run_with_an_error(tmp_path: Path) -> None:
    """Going on would cost days and end as "finished"."""
    source = tmp_path / "diverging.py"
    source.write_text(
        "from workloads.digits import Digits\n\n\n"
        "class Diverging(Digits):\n"
        "    calls = 0\n"
        "    def losses(self, outputs, targets):\n"
        "        self.calls += 1\n"
        "        return super().losses(outputs * (float('nan') if self.calls > 9 else 1.0), targets)\n"
    )
    with roles() as start:
        run = start("run", f"{source}:Diverging", "--epochs", "5", "--run-dir", str(tmp_path / "run"))
        assert run.end() == 1, run.text
    assert "finite in the last" in run.text and "Traceback" not in run.text
    assert read_report(tmp_path / "run").status == "failed"


def test_a_boss_that_is_simply_started_again_does_not_pass_fresh_weights_off_as_trained(tmp_path: Path) -> None:
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path)
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "12")
        boss.wait_for("epoch 0:")
        boss.kill()
        broker.wait_for("boss-0 is silent")
        again = start("boss", HEAVY, "--broker", address, "--epochs", "12")
        assert again.end() == 2, again.text
        assert "fresh weights" in again.text and "--resume" in again.text
        broker.terminate()
        assert broker.end() == 0, broker.text


def test_another_run_at_the_address_gets_nothing_of_this_one(tmp_path: Path, pace: Pace) -> None:
    """Somebody starts a broker on the same port with another directory; the Boss waits for its own and trains on."""
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path / "mine")
        port = ("--port", address.rpartition(":")[2])
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "20", environment=pace.environment)
        assistant = start("assistant", HEAVY, "--broker", address)
        boss.wait_for("epoch 0:")
        broker.kill()
        other = start("broker", "--run-dir", str(tmp_path / "other"), *port)
        boss.wait_for("is at this address")
        other.terminate()
        assert other.end() == 0, other.text
        assert not (tmp_path / "other" / "report.json").exists(), "no run has begun there"
        broker = start("broker", "--run-dir", str(tmp_path / "mine"), *port)
        pace.hurry()
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
    assert_nothing_lost_or_doubled(tmp_path / "mine", 20)


def test_a_boss_whose_broker_stays_away_gives_up_in_the_end_and_says_so(tmp_path: Path) -> None:
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path)
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "12", "--reconnect-timeout-s", "2")
        boss.wait_for("epoch 0:")
        broker.kill()
        assert boss.end() == 1, boss.text
        assert "no broker answers" in boss.text and "--reconnect-timeout-s" in boss.text


def test_roles_find_each_other_over_ipv6(tmp_path: Path) -> None:
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path, "--host", "::1")
        assert address.startswith("tcp://[::1]:")
        boss = start("boss", "digits", "--broker", address, "--epochs", "1")
        assert boss.end() == 0, boss.text
        assert broker.end() == 0, broker.text


def test_an_assistant_without_a_workload_filters_for_any_run(tmp_path: Path) -> None:
    """A script of one's own has no Workload: the Assistant takes the data set from the run."""
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path)
        assistant = start("assistant", "--broker", address)
        assistant.wait_for("waiting for the broker")
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "12")
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
    report = read_report(tmp_path)
    assert report.selection.kept_fraction < 0.95, "it filters"
