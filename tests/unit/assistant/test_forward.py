"""Looking ahead computes in the cheapest form that finds the network's own losses, and as the network stands else."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assistant import forward
from assistant.forward import ENOUGH, MOST_ASTRAY, CheapForward

CLASSES = 10


def losses_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def images(count: int = ENOUGH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, 1, 12, 12, generator=generator),
        torch.randint(0, CLASSES, (count,), generator=generator),
    )


def convolutions(*more: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), *more, nn.Flatten(), nn.Linear(200, CLASSES)
    ).eval()


class LooksInside(nn.Module):
    """Such as a layer that goes over into NumPy."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.from_numpy(inputs.numpy().copy())


class Recalls(nn.Module):
    """Notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []
        self.layouts: list[torch.layout] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.dtypes.append(inputs.dtype)
        self.layouts.append(inputs.layout)
        return inputs


def own_losses(network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    with torch.no_grad():
        return losses_of(network(inputs), targets)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every form but the network's own costs nothing, so that any will be taken that may be."""
    timed = CheapForward._timed

    def at_no_cost(self: CheapForward, compute):  # type: ignore[no-untyped-def]
        took_s, found = timed(self, compute)
        return (0.0 if self._weights else took_s), found

    monkeypatch.setattr(CheapForward, "_timed", at_no_cost)


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("form", forward.FORMS)
def test_each_form_finds_the_losses_of_the_newest_weights(form: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "FORMS", (form,))
    network = convolutions(recalls := Recalls())
    cheap = CheapForward(losses_of)
    for _ in range(2):
        cheap.take(network)
        for count in (ENOUGH, 1, 17):
            expected = own_losses(network, *images(count))
            found = cheap.losses(*images(count))
            assert found.dtype == torch.float32 and not found.requires_grad
            assert (found - expected).abs().mean() <= MOST_ASTRAY * expected.mean()
            assert recalls.dtypes[-1] == form and recalls.layouts[-1] == torch._mkldnn  # type: ignore[attr-defined]
        with torch.no_grad():
            for weights in network.parameters():
                weights.mul_(3.0)


@pytest.mark.usefixtures("free")
def test_a_network_that_sees_into_its_tensors_is_runas_it_stands() -> None:
    network = convolutions(LooksInside())
    cheap = CheapForward(losses_of)
    cheap.take(network)
    assert torch.equal(cheap.losses(*images()), own_losses(network, *images()))


@pytest.mark.usefixtures("free")
def test_a_form_that_finds_other_losses_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    in_form = CheapForward.in_form
    astray = 1.0 + 2 * MOST_ASTRAY
    monkeypatch.setattr(CheapForward, "in_form", lambda *given: astray * in_form(*given))
    network = convolutions()
    cheap = CheapForward(losses_of)
    cheap.take(network)
    assert torch.equal(cheap.losses(*images()), own_losses(network, *images()))


def test_a_form_that_costs_more_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = CheapForward._timed

    def dearly(self: CheapForward, compute):  # type: ignore[no-untyped-def]
        took_s, found = timed(self, compute)
        return took_s + len(self._weights), found

    monkeypatch.setattr(CheapForward, "_timed", dearly)
    network = convolutions()
    cheap = CheapForward(losses_of)
    cheap.take(network)
    assert torch.equal(cheap.losses(*images()), own_losses(network, *images()))


@pytest.mark.usefixtures("free")
def test_a_form_that_fails_later_is_given_up_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    network = convolutions(recalls := Recalls())
    cheap = CheapForward(losses_of)
    cheap.take(network)
    cheap.losses(*images())
    network.insert(3, LooksInside())  # type: ignore[operator]
    with caplog.at_level(logging.INFO, logger="autoassist"):
        for _ in range(2):
            assert torch.equal(cheap.losses(*images(3)), own_losses(network, *images(3)))
    assert len(caplog.records) == 1 and "as the Boss's network stands" in caplog.text
    assert recalls.layouts[-1] == torch.strided


@pytest.mark.usefixtures("free")
def test_by_a_few_instances_nothing_is_chosen() -> None:
    network = convolutions(recalls := Recalls())
    cheap = CheapForward(losses_of)
    cheap.take(network)
    cheap.losses(*images(ENOUGH - 1))
    assert recalls.layouts == [torch.strided]


@pytest.mark.usefixtures("free")
def test_words_are_left_to_the_network() -> None:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Embedding(50, 20), nn.Flatten(), nn.Linear(100, CLASSES)).eval()
    words, targets = torch.arange(ENOUGH * 5).reshape(ENOUGH, 5) % 50, images()[1]
    cheap = CheapForward(losses_of)
    cheap.take(network)
    assert torch.equal(cheap.losses(words, targets), own_losses(network, words, targets))
