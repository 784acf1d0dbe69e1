"""Looking ahead computes in the cheapest form that finds the network's own losses, and as the network stands else."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assistant import forward
from assistant.forward import ENOUGH, FORMS, MOST_ASTRAY, PATIENCE, CheapForward

CLASSES = 10


def losses_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def images(count: int = ENOUGH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, 1, 12, 12, generator=generator),
        torch.randint(0, CLASSES, (count,), generator=generator),
    )


def convolutions(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *more,
        *(nn.Flatten(), nn.Linear(200, CLASSES)),
    ).eval()


class LooksInside(nn.Module):
    """Such as a layer that goes over into NumPy."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.from_numpy(inputs.numpy().copy())


class Recalls(nn.Module):
    """Notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[torch.dtype | None] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.forms.append(inputs.dtype if inputs.layout == torch._mkldnn else None)  # type: ignore[attr-defined]
        return inputs


def own_losses(network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    with torch.no_grad():
        return losses_of(network(inputs.clone()), targets)


def of(network: nn.Module) -> CheapForward:
    cheap = CheapForward(losses_of)
    cheap.take(network)
    return cheap


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[torch.dtype], None]:
    """That form costs nothing, so that it is taken wherever it may be; skips where this processor does not have it."""

    def choose(form: torch.dtype) -> None:
        cheap = of(nn.Linear(4, 4))
        try:
            cheap.in_form(form, torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))
        except RuntimeError as error:
            pytest.skip(str(error).splitlines()[0])
        timed = CheapForward._timed

        def at_no_cost(self: CheapForward, *given):  # type: ignore[no-untyped-def]
            took_s, found = timed(self, *given)
            return (0.0 if self._weights else took_s), found  # there are converted weights once a form was computed in

        monkeypatch.setattr(CheapForward, "_timed", at_no_cost)
        monkeypatch.setattr(forward, "FORMS", (form,))

    return choose


@pytest.mark.parametrize("form", FORMS)
def test_each_form_finds_the_losses_of_the_newest_weights(
    form: torch.dtype, only: Callable[[torch.dtype], None]
) -> None:
    only(form)
    network = convolutions(recalls := Recalls())
    cheap = CheapForward(losses_of)
    for _ in range(2):
        cheap.take(network)
        for count in (ENOUGH, 1, 17):
            expected = own_losses(network, *images(count))
            found = cheap.losses(*images(count))
            assert found.dtype == torch.float32 and not found.requires_grad
            assert (found - expected).abs().mean() <= MOST_ASTRAY * expected.mean()
        assert recalls.forms[-1] == form
        with torch.no_grad():
            for weights in network.parameters():
                weights.mul_(3.0)


@pytest.mark.parametrize("form", FORMS)
def test_batch_norms_keep_their_numbers_in_any_form(form: torch.dtype, only: Callable[[torch.dtype], None]) -> None:
    only(form)
    norm = nn.BatchNorm2d(8)
    network = convolutions(norm, recalls := Recalls())
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert values is not None
            values.copy_(torch.linspace(0.3, 2.0, 8))
    cheap = of(network)
    cheap.losses(*images())
    expected, found = own_losses(network, *images()), cheap.losses(*images())
    assert recalls.forms[-1] == form
    assert (found - expected).abs().mean() <= MOST_ASTRAY * expected.mean()


def test_a_network_that_sees_into_its_tensors_is_run_as_it_stands(only: Callable[[torch.dtype], None]) -> None:
    only(torch.float32)
    network = convolutions(LooksInside())
    cheap = of(network)
    for _ in range(2):
        assert torch.equal(cheap.losses(*images()), own_losses(network, *images()))


def test_a_form_that_finds_other_losses_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, only: Callable[[torch.dtype], None]
) -> None:
    only(torch.float32)
    in_form = CheapForward.in_form
    astray = 1.0 + 2 * MOST_ASTRAY
    monkeypatch.setattr(CheapForward, "in_form", lambda *given: astray * in_form(*given))
    cheap = of(convolutions(recalls := Recalls()))
    cheap.losses(*images())
    assert recalls.forms[-1] is None


def test_a_form_that_goes_astray_as_the_network_learns_is_given_up(
    monkeypatch: pytest.MonkeyPatch, only: Callable[[torch.dtype], None], caplog: pytest.LogCaptureFixture
) -> None:
    only(torch.float32)
    network = convolutions(recalls := Recalls())
    cheap = of(network)
    cheap.losses(*images())
    assert recalls.forms[-1] == torch.float32
    in_form = CheapForward.in_form
    monkeypatch.setattr(CheapForward, "in_form", lambda *given: (1.0 + 2 * MOST_ASTRAY) * in_form(*given))
    cheap.take(network)
    caplog.clear()  # what was chosen, if it was heard
    with caplog.at_level(logging.INFO, logger="autoassist"):
        for _ in range(2):
            assert torch.equal(cheap.losses(*images()), own_losses(network, *images()))
    assert len(caplog.records) == 1 and "others by now" in caplog.text


@pytest.mark.parametrize("dearer_s", [1.0, 0.0])
def test_a_form_that_costs_no_less_is_not_taken(dearer_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = CheapForward._timed

    def dearly(self: CheapForward, *given):  # type: ignore[no-untyped-def]
        _, found = timed(self, *given)
        return 1.0 + dearer_s * len(self._weights), found

    monkeypatch.setattr(CheapForward, "_timed", dearly)
    cheap = of(convolutions(recalls := Recalls()))
    cheap.losses(*images())
    assert recalls.forms[-1] is None


def test_a_form_that_fails_later_is_given_up_and_that_is_said(
    only: Callable[[torch.dtype], None], caplog: pytest.LogCaptureFixture
) -> None:
    only(torch.float32)
    network = convolutions(recalls := Recalls())
    cheap = of(network)
    for _ in range(2):
        cheap.losses(*images())
    network.insert(3, LooksInside())
    caplog.clear()  # what was chosen, if it was heard
    with caplog.at_level(logging.INFO, logger="autoassist"):
        for _ in range(2):
            assert torch.equal(cheap.losses(*images(3)), own_losses(network, *images(3)))
    assert len(caplog.records) == 1 and "as it stands from now on" in caplog.text
    assert recalls.forms[-1] is None


def test_by_a_few_instances_nothing_is_chosen_while_more_may_come(only: Callable[[torch.dtype], None]) -> None:
    only(torch.float32)
    cheap = of(convolutions(recalls := Recalls()))
    for _ in range(PATIENCE):
        cheap.losses(*images(ENOUGH - 1))
    assert recalls.forms == [None] * PATIENCE
    cheap.losses(*images(ENOUGH - 1))
    assert recalls.forms[-1] == torch.float32, "no more will come"


def test_an_input_that_the_network_changes_is_the_same_for_every_form(only: Callable[[torch.dtype], None]) -> None:
    only(torch.float32)

    class Halves(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.mul_(0.5)

    network = nn.Sequential(Halves(), *convolutions(recalls := Recalls())).eval()
    cheap = CheapForward(losses_of)
    for _ in range(3):
        cheap.take(network)
        assert torch.allclose(cheap.losses(*images()), own_losses(network, *images()), rtol=1e-4)
    assert recalls.forms[-3:] == [torch.float32, None, None], "tried anew beside the network's own, then ours"


def test_words_are_left_to_the_network(only: Callable[[torch.dtype], None]) -> None:
    only(torch.float32)
    torch.manual_seed(3)
    recalls = Recalls()
    network = nn.Sequential(nn.Embedding(50, 20), recalls, nn.Flatten(), nn.Linear(100, CLASSES)).eval()
    words, targets = torch.arange(ENOUGH * 5).reshape(ENOUGH, 5) % 50, images()[1]
    found = of(network).losses(words, targets)
    assert len(recalls.forms) == 1, "nothing else was tried"
    assert torch.equal(found, own_losses(network, words, targets))


def test_losses_that_are_not_finite_keep_no_form_from_being_taken(only: Callable[[torch.dtype], None]) -> None:
    only(torch.float32)
    inputs, targets = images()
    inputs[5] = float("nan")
    cheap = of(convolutions(recalls := Recalls()))
    found = cheap.losses(inputs, targets)
    assert torch.isfinite(found).sum() >= ENOUGH - 1
    assert recalls.forms[-1] == torch.float32
