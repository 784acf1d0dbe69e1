"""What a comparison asks of a workload's metric, in a process that keeps no GPU from its runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoassist import compare
from autoassist.compare import CompareCommand
from autoassist.metric_command import Direction, asked
from autoassist.roles import WorkloadSettings
from boss.train import TrainSettings
from protocol.errors import RoleFailed
from workloads import Metric, load_workload

CPU = TrainSettings(device="cpu")
WITHOUT_A_VALUE = """
import atexit
import numpy as np
from workloads import Metric
from workloads.digits import Digits

class Talking(Digits):
    def evaluate(self, boss, device):
        print("evaluating", end="")
        atexit.register(print, "bye")
        return Metric("perplexity", float("nan"), higher_is_better=np.bool_(False))
"""
FAILING = """
from workloads.digits import Digits

class Failing(Digits):
    def evaluate(self, boss, device):
        raise ValueError("no held-out part")
"""


def test_a_process_of_its_own_tells_name_and_direction_of_the_metric() -> None:
    metric = asked("digits", CPU, WorkloadSettings(), {})
    assert (metric.name, metric.higher_is_better) == ("test_accuracy", True)


def test_an_evaluation_that_fails_there_is_told_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(FAILING)
    with pytest.raises(RoleFailed, match=r"a fresh Boss cannot be evaluated.*no held-out part"):
        asked(f"{tmp_path / 'task.py'}:Failing", CPU, WorkloadSettings(), {})


def test_a_fresh_boss_without_a_value_and_a_workload_that_prints_are_no_mistakes(
    tmp_path: Path,
) -> None:
    (tmp_path / "task.py").write_text(WITHOUT_A_VALUE)
    metric = asked(f"{tmp_path / 'task.py'}:Talking", CPU, WorkloadSettings(), {})
    assert (metric.name, metric.higher_is_better) == ("perplexity", False)


@pytest.mark.parametrize(("device", "elsewhere"), [("cpu", False), ("cuda", True)])
def test_a_comparison_on_a_gpu_evaluates_in_another_process_and_one_on_the_cpu_in_its_own(
    monkeypatch: pytest.MonkeyPatch, device: str, elsewhere: bool
) -> None:
    here, there = Metric("here", 0.1), Direction(name="there", higher_is_better=True)
    monkeypatch.setattr(compare, "asked", lambda *_: there)
    monkeypatch.setattr(compare, "evaluated", lambda *_: here)
    monkeypatch.setattr(TrainSettings, "resolved_device", lambda _: torch.device(device))
    found = CompareCommand(workload="digits")._metric(load_workload("digits"), {})
    assert found.name == ("there" if elsewhere else "here")
