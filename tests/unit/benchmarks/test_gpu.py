"""The benchmark of a Boss on a GPU measures what it says; tried on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.gpu import GpuBenchmark, compare, is_wait, known
from benchmarks.gpu_trainings import Resident, Training

N, BATCH = 640, 16


def training() -> Training:
    torch.manual_seed(1)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = Resident(torch.rand(N, 4), torch.randint(3, (N,)))
    return Training(data, BATCH, model, optimizer, lambda out, y: cross_entropy(out, y, reduction="none"))


@pytest.mark.parametrize(
    ("name", "waits"),
    [
        ("cudaDeviceSynchronize", True),
        ("cudaStreamSynchronize", True),
        ("cudaEventSynchronize", True),
        ("cudaMemcpy", True),
        ("cudaMemcpyAsync", False),
        ("cudaLaunchKernel", False),
    ],
)
def test_calls_that_wait_for_the_device_are_told_by_their_names(name: str, waits: bool) -> None:
    assert is_wait(name) is waits


def test_both_loops_train_and_every_figure_has_a_line() -> None:
    settings = GpuBenchmark(device="cpu", turn=2, turns=2, traced=1)
    one = training()
    before = one.model.weight.detach().clone()
    found = compare(settings, one, "uniform")
    assert not torch.equal(one.model.weight, before)
    assert {f"resnet_{name}" for name in found} - {"resnet_scored_percent"} <= known().keys()
    assert found["waits"] == found["plain_waits"] == 0.0 and found["ratio"] > 0.0
    assert found["scored_percent"] == 0.0, "uniform has no Assistant"


def test_the_data_is_gathered_by_whole_batches() -> None:
    data = Resident(torch.arange(12.0).view(6, 2), torch.arange(6))
    inputs, targets = data.__getitems__([4, 1])
    assert inputs.tolist() == [[8.0, 9.0], [2.0, 3.0]] and targets.tolist() == [4, 1]
