"""Several Boss ranks: killed, started again with as many or with others, cut off from the broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import torch

from protocol.report import read_report
from tests.faults.test_broker_outage import HEAVY, assert_nothing_lost_or_doubled, wait_for_steps_off_the_plan
from tests.processes.heavy_digits import Pace
from tests.processes.roles import DEADLINE_S, HERE, Role, Statistics, export, roles, start_broker
from tests.processes.test_roles import free_port

pytestmark = pytest.mark.processes
EPOCHS = 3
TWO_RANKS = ("--epochs", str(EPOCHS), "--batch-size", "32", "--world-size", "2", "--checkpoint-every", "10")
MANY = 20
"""Epochs of what must not be over before it was disturbed."""
FOR_LONG = ("--epochs", str(MANY), *TWO_RANKS[2:])
DETERMINISTIC = (*TWO_RANKS, "--deterministic", "--seed", "1")
Start = Callable[..., Role]


def rank_pids(run: Role) -> list[int]:
    """Process IDs of the ranks of a launched Boss, or of those that a torchrun has started."""
    ranks = [child for child in psutil.Process(run.process.pid).children(recursive=True) if _rank_of(child)]
    return [child.pid for child in sorted(ranks, key=_rank_of)]


def _rank_of(process: psutil.Process) -> str:
    try:
        return str(process.environ().get("RANK", ""))
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deterministic run of two ranks from beginning to end."""
    run_dir, pace = tmp_path_factory.mktemp("uninterrupted"), Pace(tmp_path_factory.mktemp("pace"))
    pace.hurry()
    run = Role("run", HEAVY, *DETERMINISTIC, "--run-dir", str(run_dir), environment=pace.environment)
    assert run.end() == 0, run.text
    return run_dir


def test_two_ranks_train_each_instance_once_and_report_it_once(uninterrupted: Path) -> None:
    assert_nothing_lost_or_doubled(uninterrupted, EPOCHS)
    report = read_report(uninterrupted)
    assert report.world_size == 2 and report.boss.instances == report.selection.kept
    assert report.loss_reports.sent == report.loss_reports.delivered == 2 * report.boss.steps


def test_after_a_rank_is_killed_all_go_on_and_the_run_is_the_same_to_the_bit(
    tmp_path: Path, uninterrupted: Path, pace: Pace
) -> None:
    with roles() as start:
        run = start("run", HEAVY, *DETERMINISTIC, "--run-dir", str(tmp_path), environment=pace.environment)
        run.wait_for("epoch 0:")
        pace.hold()
        os.kill(rank_pids(run)[1], signal.SIGKILL)
        pace.hurry()
        run.wait_for("resuming from the checkpoint")
        assert run.end() == 0, run.text
    assert export(tmp_path) == export(uninterrupted)
    assert export(tmp_path, "losses") == export(uninterrupted, "losses")
    mine, other = (torch.load(path / "boss.pt", weights_only=True) for path in (tmp_path, uninterrupted))
    assert all(torch.equal(mine[name], other[name]) for name in mine.keys() | other.keys())


def test_a_run_goes_on_with_more_ranks_and_with_fewer_without_a_hole_or_a_double(tmp_path: Path, pace: Pace) -> None:
    with roles() as start:
        run = start("run", HEAVY, *FOR_LONG, "--run-dir", str(tmp_path), environment=pace.environment)
        run.wait_for("epoch 0:")
        run.kill()
    with roles() as start:
        run = start("run", "--resume", str(tmp_path), "--ranks", "3", environment=pace.environment)
        run.wait_for("epoch 1:")
        run.kill()
    with roles() as start:
        pace.hurry()
        run = start("run", "--resume", str(tmp_path), "--ranks", "1", environment=pace.environment)
        assert run.end() == 0, run.text
    assert_nothing_lost_or_doubled(tmp_path, MANY)
    sent = read_report(tmp_path).loss_reports
    assert sent.sent == sent.delivered
    ranks_of_steps = Counter(batch["step"] for batch in export(tmp_path))
    assert set(ranks_of_steps.values()) == {1, 2, 3}, "each number of ranks has trained steps"


def test_while_the_broker_is_away_all_ranks_train_the_same_steps_off_the_plan(tmp_path: Path, pace: Pace) -> None:
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path)
        again = ("--port", address.rpartition(":")[2], "--statistics-port", statistics_address.rpartition(":")[2])
        words = ("--broker", address, *FOR_LONG[:-2], "--http-port", "0")
        boss = start("boss", HEAVY, *words, environment=pace.environment)
        figures = boss.wait_for("metrics on http://").partition("http://")[2].partition("/")[0]
        assistant = start("assistant", HEAVY, "--broker", address)
        statistics = Statistics(statistics_address)
        statistics.wait_until(lambda s: s.trained_steps >= 20, "step 20")
        broker.kill()
        while "boss-0" not in boss.wait_for("no sign of the broker"):
            pass  # the other ranks' words: that the broker is back is said by rank 0 alone, if it has missed it
        wait_for_steps_off_the_plan(figures, more_than=0)
        broker = start("broker", "--run-dir", str(tmp_path), *again)
        boss.wait_for("the broker answers again")
        pace.hurry()
        assert boss.end() == assistant.end() == broker.end() == 0, boss.text
        statistics.close()
    assert_nothing_lost_or_doubled(tmp_path, MANY)
    report = read_report(tmp_path)
    assert report.boss.off_plan_steps > 0
    assert report.boss.off_plan_instances == 64 * report.boss.off_plan_steps


def test_a_stop_drains_all_ranks_and_a_kill_of_the_launcher_takes_them_along(tmp_path: Path) -> None:
    with roles() as start:
        run = start("run", HEAVY, *FOR_LONG, "--look-ahead", "on", "--run-dir", str(tmp_path))
        run.wait_for("epoch 0:")
        run.terminate()
        assert run.end() == 128 + signal.SIGTERM, run.text
        stopped = read_report(tmp_path)
        assert stopped.status == "stopped" and stopped.loss_reports.sent == stopped.loss_reports.delivered
        again = start("run", "--resume", str(tmp_path))
        again.wait_for(f"resuming from the checkpoint of step {stopped.boss.steps - 1}")
        again.wait_for("epoch 1:")
        children = psutil.Process(again.process.pid).children(recursive=True)
        assert len(rank_pids(again)) == 2 and any("looker" in " ".join(child.cmdline()) for child in children)
        again.kill()
        gone, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
        assert gone and not alive


def test_an_error_of_one_rank_is_the_one_that_the_user_reads(tmp_path: Path) -> None:
    run = Role("run", f"{HERE / 'failing_rank.py'}:FailingRank", *TWO_RANKS, "--run-dir", str(tmp_path))
    assert run.end() == 2, run.text
    (error,) = [line for line in run.text.splitlines() if line.startswith("error: ")]
    assert "the second rank has had enough" in error and "report it" not in error
    assert read_report(tmp_path).status == "failed"


SCRIPT = """
import os, sys, torch, torch.distributed as dist, autoassist
dist.init_process_group("gloo")
feed = autoassist.Feed.connect(sys.argv[1], n=1000, batch_size=10, epochs=1000, policy="uniform")
while not feed.ended:
    for ids in feed:
        feed.report(torch.ones(len(ids)))
        if feed.steps > 80 and feed.rank == 1:  # more than can be on their way
            raise ValueError("rank 1 has had enough")
"""


def test_a_rank_that_fails_takes_the_others_along_and_leaves_the_run_to_be_resumed(tmp_path: Path) -> None:
    """Whoever starts the ranks again finds it as it was: nobody has said Goodbye for it."""
    with roles() as start:
        broker, address, statistics_address = start_broker(start, tmp_path)
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        words = [sys.executable, "-c", SCRIPT, address]
        ranks = [
            subprocess.Popen(words, env={**os.environ, **place, "RANK": rank}, stderr=subprocess.PIPE, text=True)
            for rank in ("0", "1")
        ]
        other, failed = (rank.communicate(timeout=DEADLINE_S)[1] for rank in ranks)
        assert "rank 1 has had enough" in failed and "RankLost: another rank" in other, other
        broker.wait_for("boss-0 is silent")
        with closing(Statistics(statistics_address)) as statistics:
            statistics.wait_until(lambda s: s.trained_steps > 20 and not s.ended, "a run that waits for its Boss")


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[str, ...]]]:
    """Words before ``-m autoassist``, so that torch's own launcher starts the ranks."""

    def within(*options: str) -> tuple[str, ...]:
        program = str(Path(sys.executable).with_name("torchrun"))
        return (program, "--standalone", *options, "--no-python")

    yield within


def test_torchrun_starts_a_killed_group_again_from_its_checkpoint(
    tmp_path: Path, torchrun: Callable[..., tuple[str, ...]], pace: Pace
) -> None:
    run_dir, kept = tmp_path / "run", tmp_path / "checkpoints"
    with roles() as start:
        broker, address, _ = start_broker(start, run_dir)
        words = ("--broker", address, *FOR_LONG[:4], "--checkpoint-every", "10", "--checkpoint-dir", str(kept))
        within = torchrun("--nproc-per-node", "2", "--max-restarts", "1")
        words += ("--save", str(tmp_path / "boss.pt"))
        boss = start("boss", HEAVY, *words, within=within, environment=pace.environment)
        assistant = start("assistant", HEAVY, "--broker", address)
        boss.wait_for("epoch 0:")
        os.kill(rank_pids(boss)[0], signal.SIGKILL)
        boss.wait_for("resuming from the checkpoint")
        pace.hurry()
        assert boss.end() == broker.end(DEADLINE_S) == 0, boss.text
        assert assistant.end() == 0, assistant.text
    assert_nothing_lost_or_doubled(run_dir, MANY)
    assert (tmp_path / "boss.pt").exists()
