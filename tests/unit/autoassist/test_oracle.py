"""The oracle: the default's rule on losses of this very moment, whose forward passes are not counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autoassist.cli import main
from autoassist.compare_found import Common, look
from autoassist.compare_plan import PlannedRun
from autoassist.oracle import FreshLosses, Oracle
from autoassist.oracle_command import OracleCommand
from autoassist.run_command import RunCommand
from boss.train import TrainSettings
from protocol.arrays import F32, I64
from protocol.messages import LossRecord
from protocol.order import EpochOrder
from protocol.report import read_report
from protocol.settings import RunSettings
from protocol.signals import StopSignal
from workloads import load_workload

DIGITS = load_workload("digits")
N = DIGITS.fingerprint().n


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Steps as short as these wait for their threads longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings(**changes: object) -> RunSettings:
    given = {"policy": "oracle", "boss_instances": 4000, "batch_size": 64, "warmup_epochs": 0, "anneal_share": 0.0}
    return RunSettings(**{**given, **changes})  # type: ignore[arg-type]


def record(ids: list[int], losses: list[float]) -> LossRecord:
    whole = np.ones(len(ids), dtype=np.float32)
    place = {"position": 0, "step": 0, "rank": 0, "learned_through": -1, "epoch": 0}
    return LossRecord(ids=np.array(ids), losses=np.array(losses, dtype=np.float32), keep_probabilities=whole, **place)


class Watched(FreshLosses):
    """Notes what it is told and asked."""

    def __init__(self) -> None:
        super().__init__(N)
        self.oracle: Oracle | None = None
        self.seen: list[I64] = []
        self.errors: list[float] = []

    def observe(self, record: LossRecord) -> None:
        assert self.oracle is not None
        inputs, targets = DIGITS.batch(record.ids.tolist())
        with torch.no_grad():
            now: F32 = DIGITS.losses(self.oracle._boss(inputs), targets).numpy()
        self.errors.append(float(np.abs(now - record.losses).max()))
        self.seen.append(record.ids)
        super().observe(record)


def watched(**changes: object) -> tuple[Watched, Oracle]:
    policy = Watched()
    policy.oracle = Oracle(DIGITS, settings(**changes), TrainSettings(), policy)
    policy.oracle.run()
    return policy, policy.oracle


def test_keep_probabilities_are_fresh_losses_relative_to_their_running_mean() -> None:
    policy = FreshLosses(4)
    policy.observe(record([0, 1], [1.0, 3.0]))
    policy.observe(record([2, 1], [0.5, 2.0]))
    mean = (0.97 * 4.0 + 2.5) / (0.97 * 2 + 2)
    keep = policy.keep_probability(np.array([1, 2]), moment=None)  # type: ignore[arg-type]
    assert keep == pytest.approx(np.array([2.0, 0.5]) / mean, rel=1e-5)


def test_every_candidate_is_judged_by_its_loss_under_the_boss_of_that_step_and_in_the_epochs_order() -> None:
    policy, oracle = watched(boss_instances=1600)
    assert max(policy.errors) < 1e-5
    assert oracle.trained.offered == sum(map(len, policy.seen)) > 1600
    order = np.concatenate([EpochOrder(N, 1, epoch).ids(0, N) for epoch in range(4)])
    assert (np.concatenate(policy.seen) == order[: oracle.trained.offered]).all()


def test_exactly_the_budget_is_trained_in_whole_batches_but_the_last() -> None:
    found = watched(boss_instances=1010)[1].trained
    assert (found.instances, found.steps) == (1010, 16)


def test_much_is_left_out_once_the_boss_has_learned() -> None:
    found = watched()[1].trained
    assert (found.instances, found.steps) == (4000, 63)
    assert 4000 <= found.kept < 4000 + 64 and found.kept < 0.9 * found.offered
    assert found.metric is not None and found.metric.value > 0.5


def test_nothing_is_left_out_in_the_anneal() -> None:
    late = watched(anneal_share=1.0, boss_instances=1010)[1].trained
    assert late.kept == late.offered


def test_it_needs_no_warm_up() -> None:
    """A warm-up is there to learn what to leave out."""
    found = watched(warmup_epochs=9)[1].trained
    assert found.kept < 0.9 * found.offered


def test_the_same_seed_trains_the_same_and_another_seed_does_not() -> None:
    weights = [next(watched(boss_instances=1010, seed=seed)[1]._boss.parameters()) for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_wall_time_leaves_out_what_the_selection_and_the_evaluation_take() -> None:
    began = time.monotonic()
    clocks = watched(boss_instances=640)[1].trained.clocks
    assert clocks.checkpoint_s > 0 and clocks.evaluation_s > 0
    assert clocks.wall_s + clocks.checkpoint_s + clocks.evaluation_s <= time.monotonic() - began


def test_the_learning_rate_runs_on_passes_to_its_end() -> None:
    asked: list[float] = []
    workload = load_workload("digits")
    workload.lr_factor = lambda progress: asked.append(progress) or 0.1  # type: ignore[method-assign,func-returns-value]
    Oracle(workload, settings(boss_instances=640), TrainSettings()).run()
    assert asked == [pytest.approx(step / 10) for step in range(10)]


def test_a_signal_ends_it_without_a_metric() -> None:
    stop = StopSignal()
    stop.requested = True
    found = Oracle(DIGITS, settings(), TrainSettings()).run(stop)
    stop.close()
    assert found.metric is None and found.steps == 0


def test_its_command_leaves_a_finished_run_which_a_comparison_does_not_run_again(tmp_path: Path) -> None:
    run = PlannedRun(RunCommand(workload="digits", run=settings(), checkpoint_every=0), 1.0, "oracle-1-seed1")
    assert main(run.arguments(tmp_path / run.name, resume=False)) == 0
    report = read_report(tmp_path / run.name)
    assert (report.status, report.policy, report.boss.instances) == ("finished", "oracle", 4000)
    assert report.selection.kept_fraction < 0.9 and report.settings == settings().as_dict()
    assert look(run, tmp_path / run.name, Common(DIGITS.fingerprint().dataset_id, "test_accuracy")).report == report


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (OracleCommand(workload="digits", run=RunSettings(), run_dir="x"), "policy=autoassist: give --policy oracle"),
        (OracleCommand(workload="digits", run=settings()), "run_dir=None: is missing"),
        (OracleCommand(workload="digits", run=settings(world_size=2), run_dir="x"), "world_size=2: the oracle trains"),
        (OracleCommand(workload="digits", run=settings(max_tokens=100), run_dir="x"), "max_tokens=100: the oracle"),
    ],
)
def test_its_command_refuses_what_it_cannot_do(command: OracleCommand, named: str) -> None:
    with pytest.raises(Exception, match=named):
        command.execute()


def test_a_run_of_it_is_refused_with_the_way_to_have_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", "digits", "--policy", "oracle", "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "error: policy=oracle: is an upper bound" in error and "autoassist compare WORKLOAD --policies" in error
    assert not (tmp_path / "run").exists()
