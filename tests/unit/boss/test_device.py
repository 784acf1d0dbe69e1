"""Losses on a device are reported without a wait for it. The device is a fake, which refuses to be waited for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boss.plan import RankBatch
from boss.reporter import RING_SLOTS, Reporter
from boss.weights import _mean_of_finite, mean_loss
from protocol.settings import RunSettings
from tests.harness.fake_device import FakeDevice, OnDevice, Stream, on_device

BATCH = 8
LAG_STEPS = 3
SETTINGS = [RunSettings(), RunSettings(weights="on")]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module", autouse=True)
def what_cuda_opens_stays_open() -> None:
    """From its first use on, in every process."""
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda").to("cpu", non_blocking=True)
        torch.cuda.synchronize()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    return FakeDevice(monkeypatch)


@pytest.fixture
def reporter(device: FakeDevice) -> Reporter:
    return Reporter(rank=0)


def a_batch(padding: int) -> RankBatch:
    keep = np.linspace(0.2, 1.0, BATCH, dtype=np.float32)
    return RankBatch(0, 0, 0.0, np.arange(BATCH), keep, padding)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("per_token", [False, True])
def test_the_training_thread_never_waits_for_the_device(
    reporter: Reporter, settings: RunSettings, padding: int, per_token: bool
) -> None:
    w = torch.ones((), requires_grad=True)
    losses, batch = on_device(torch.ones(BATCH)) * w, a_batch(padding)
    counts = on_device(torch.ones(BATCH, dtype=torch.int64)) if per_token else None
    reporter.put(batch, losses)
    mean = mean_loss(losses, batch, settings, counts)
    mean.backward()  # type: ignore[no-untyped-call]
    assert isinstance(mean, OnDevice) and w.grad is not None and w.grad.tolist() == pytest.approx(1.0)
    assert reporter.take() == [] and reporter.is_waiting, "until the copy is done"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_losses_of_another_dtype_become_float32_where_they_are(reporter: Reporter, dtype: torch.dtype) -> None:
    reporter.put(a_batch(0), on_device(torch.arange(BATCH, dtype=dtype)))
    (slot,) = reporter._ring
    assert slot.values is not None and slot.values.tolist() == list(range(BATCH))


def test_a_device_that_lags_by_some_steps_loses_no_losses(reporter: Reporter, device: FakeDevice) -> None:
    steps, came = 3 * RING_SLOTS, list[float]()
    for step in range(steps):
        reporter.put(a_batch(0), on_device(torch.full((BATCH,), float(step))))
        device.stream.done = step + 1 - LAG_STEPS
        came += [report.losses[0] for report in reporter.take()]
    assert reporter.values_dropped == 0
    assert came == list(range(steps - LAG_STEPS)), "each as soon as the device has done what was launched before it"


def test_copies_on_two_streams_are_waited_for_on_each(reporter: Reporter, device: FakeDevice) -> None:
    fast, stuck = Stream(), Stream()
    for device.stream in (fast, stuck, fast):
        reporter.put(a_batch(0), on_device(torch.ones(BATCH)))
    assert reporter.take() == []
    fast.done = fast.launched
    assert len(reporter.take()) == 1, "the second copy is still on its way, and the third waits its turn"
    stuck.done = stuck.launched
    assert len(reporter.take()) == 2


def test_who_records_events_works_with_the_device_of_the_losses(reporter: Reporter, device: FakeDevice) -> None:
    """Left at the first one, which every thread begins with, it would take some of that one's memory too."""
    device.stream = Stream(device=3)
    for _ in range(4):
        reporter.put(a_batch(0), on_device(torch.ones(BATCH)))
        device.stream.done = device.stream.launched
        assert len(reporter.take()) == 1
    assert device.opened == [3]


def test_batches_of_many_sizes_share_a_few_pinned_buffers(reporter: Reporter, device: FakeDevice) -> None:
    for size in (5, 8, 6, 1, 7, 3):
        losses = torch.arange(float(size))
        reporter.put(RankBatch(0, 0, 0.0, np.arange(size), np.ones(size, dtype=np.float32), 0), on_device(losses))
        device.stream.done = device.stream.launched
        (report,) = reporter.take()
        assert report.losses.tolist() == losses.tolist()
    assert device.pinned == [8, 1, 4]


@pytest.mark.parametrize("wait", [Tensor.item, Tensor.cpu, Tensor.numpy, Tensor.tolist, bool, float, np.asarray])
def test_the_fake_refuses_to_be_waited_for(wait: Callable[[Tensor], Any]) -> None:
    """Else the test above would say nothing."""
    with pytest.raises(AssertionError, match="waits for the device"):
        wait(on_device(torch.ones(BATCH)).mean())


def test_the_fake_refuses_copies_that_are_waited_for() -> None:
    """The same."""
    losses = on_device(torch.ones(BATCH))
    with pytest.raises(AssertionError, match="copy_ waits"):
        torch.empty(BATCH).copy_(losses)
    with pytest.raises(AssertionError, match="to waits"):
        losses.to("cpu")


def test_on_the_cpu_the_mean_of_finite_losses_is_one_operation() -> None:
    """Of every step; the others come only where some loss is not finite."""
    losses = torch.arange(float(BATCH), requires_grad=True)
    mean = mean_loss(losses, a_batch(0), RunSettings())
    assert mean.item() == 3.5 and mean.grad_fn is not None
    assert [type(node).__name__ for node, _ in mean.grad_fn.next_functions if node is not None] == ["AccumulateGrad"]


@pytest.mark.parametrize(
    ("values", "mean", "gradient"),
    [
        ([1.0, 2.0, 6.0], 3.0, [1 / 3, 1 / 3, 1 / 3]),
        ([1.0, math.nan, 6.0, math.inf, -math.inf], 3.5, [0.5, 0.0, 0.5, 0.0, 0.0]),
        ([math.nan, math.inf], math.nan, [0.0, 0.0]),
    ],
)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_device_leaves_out_of_the_mean_what_is_not_finite(
    values: list[float], mean: float, gradient: list[float], device: str, dtype: torch.dtype
) -> None:
    losses = torch.tensor(values, device=device, dtype=dtype, requires_grad=True)
    found = _mean_of_finite(losses)
    found.backward()  # type: ignore[no-untyped-call]
    assert found.item() == pytest.approx(mean, nan_ok=True)
    assert losses.grad is not None and losses.grad.tolist() == pytest.approx(gradient)


@pytest.mark.parametrize("device", [on_device, pytest.param(Tensor.cuda, marks=needs_gpu)])
def test_a_rank_that_has_padding_alone_has_the_mean_zero_on_a_device_too(device: Callable[[Tensor], Tensor]) -> None:
    batch = RankBatch(0, 0, 0.0, np.arange(1), np.ones(1, dtype=np.float32), padding=1, share=0.0)
    mean = mean_loss(device(torch.ones(1)), batch, RunSettings())
    assert torch.equal(mean.as_subclass(Tensor).cpu(), torch.zeros(()))


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_losses_come_from_a_gpu_as_they_were(dtype: torch.dtype) -> None:
    reporter, losses = Reporter(rank=0), torch.arange(BATCH, device="cuda", dtype=dtype)
    reporter.put(a_batch(0), losses)
    losses.zero_()  # the copy was launched before
    torch.cuda.synchronize()
    (report,) = reporter.take()
    assert report.losses.tolist() == list(range(BATCH)) and not reporter.is_waiting


@needs_gpu
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_in_its_debug_mode_sees_no_wait(settings: RunSettings, dtype: torch.dtype) -> None:
    losses, reporter = torch.ones(BATCH, device="cuda", dtype=dtype, requires_grad=True) * 2, Reporter(rank=0)
    reporter.put(a_batch(0), losses)  # the first one makes the buffer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        reporter.put(a_batch(0), losses)
        mean_loss(losses, a_batch(2), settings).backward()  # type: ignore[no-untyped-call]
    finally:
        torch.cuda.set_sync_debug_mode("default")
