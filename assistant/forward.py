"""The forward pass to look ahead with: of the forms that a CPU knows, the cheapest that finds the same losses.

A *form* is the network as it stands, or its tensors in oneDNN's layout, with float32 or bfloat16 numbers in them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

log = logging.getLogger("autoassist.assistant")

FORMS: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
"""What oneDNN's layout is tried with."""
ENOUGH = 64
"""Instances by which a form is chosen: fewer tell little of the costs of many."""
PATIENCE = 30
"""How often there may be fewer: pieces grow from one, and remain small where the network is slow."""
TURNS = 3
"""How often each form is timed; the least counts, and the first pays for oneDNN's preparations."""
CLEARLY_LESS = 0.9
"""Share of the network's own time from which on another form is worth it."""
MOST_ASTRAY = 0.02
"""How far the losses of a form may lie from the network's own, in the mean and as a share of their mean. Keep
probabilities are losses over their mean, so that is how far they move, in the mean."""


class CheapForward:
    """Losses of the Boss's network in ``eval`` mode on the CPU, for as little as they are to be had.

    Where a network is run as it stands, convolutions and pools change the layout of their tensors or do without the
    best there is. oneDNN's layout (``Tensor.to_mkldnn``) is kept from layer to layer, and newer processors have twice
    the arithmetic in bfloat16. Which form is cheapest depends on network and processor, so all are timed. A network
    is run as it stands where a layer sees into its tensors, where weights are tied, where its input is not float32, and
    where no form finds its losses; that is tried again with the first instances of every snapshot, since losses become
    smaller as the network learns.
    """

    def __init__(self, losses: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._losses_of = losses
        self._network: nn.Module = nn.Identity()
        self._weights: dict[torch.dtype, dict[str, Tensor]] = {}
        """Of this network, in each form that has been computed in."""
        self._is_chosen = False
        self._form: torch.dtype | None = None
        """What is computed in; None is the network as it stands."""
        self._is_tried = True
        """Whether the form has found this network's losses."""
        self._pieces = 0
        """How often losses were asked for before a form was chosen."""

    def take(self, network: nn.Module) -> None:
        """Go by this network from now on, with the weights that it has now."""
        self._network = network
        self._weights = {}
        self._is_tried = False

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Shape ``(k,)``, float32, without gradient; ``inputs`` may be changed where the network does so."""
        with torch.inference_mode():
            if not self._is_chosen and inputs.dtype == torch.float32 and self._are_enough(len(inputs)):
                self._choose(inputs, targets)
            if self._form is None:
                return self.as_it_stands(inputs, targets)
            try:
                found = self.in_form(self._form, inputs, targets)
            except Exception as error:  # what fails as it stands, too, is raised there
                self._give_up(_first_line(error))
                return self.as_it_stands(inputs, targets)
            return found if self._is_tried else self._tried(found, inputs, targets)

    def as_it_stands(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """By the network's own ``forward``."""
        return self._losses_of(self._network(inputs), targets).float()

    def in_form(self, form: torch.dtype, inputs: Tensor, targets: Tensor) -> Tensor:
        """In oneDNN's layout, with numbers of ``form``; raises what the network does where it takes no such tensors."""
        if form not in self._weights:
            self._weights[form] = _weights_of(self._network, form)
        outputs = torch.func.functional_call(self._network, self._weights[form], (inputs.to(form).to_mkldnn(),))
        return self._losses_of(outputs.to_dense().to(inputs.dtype), targets).float()

    def _are_enough(self, count: int) -> bool:
        self._pieces += 1
        return count >= ENOUGH or self._pieces > PATIENCE

    def _choose(self, inputs: Tensor, targets: Tensor) -> None:
        self._is_chosen = self._is_tried = True
        own_s, own = self._timed(self.as_it_stands, inputs, targets)
        least_s, refused = CLEARLY_LESS * own_s, ""
        for form in FORMS:
            try:
                took_s, found = self._timed(partial(self.in_form, form), inputs, targets)
            except Exception as error:  # a network's own code may say in any way that it takes no such tensors
                refused = refused or f" ({_first_line(error)})"
                continue
            if took_s < least_s and _are_alike(found, own):
                least_s, self._form = took_s, form
        self._weights = {form: weights for form, weights in self._weights.items() if form == self._form}
        own_us = 1e6 * own_s / len(inputs)
        if self._form is None:
            log.info("looking ahead runs the Boss's network as it stands: %.1f µs an instance%s", own_us, refused)
        else:
            us, how = 1e6 * least_s / len(inputs), str(self._form).removeprefix("torch.")
            log.info("looking ahead runs the Boss's network in %s: %.1f µs an instance, not %.1f", how, us, own_us)

    def _timed(
        self, compute: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
    ) -> tuple[float, Tensor]:
        """Its time on this core, whoever else was there meanwhile, and what it found."""
        took_s = []
        for _ in range(TURNS):
            its_own = inputs.clone()  # a network may change its input
            began_s = time.thread_time()
            found = compute(its_own, targets)
            took_s.append(time.thread_time() - began_s)
        return min(took_s), found

    def _tried(self, found: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """The network's own losses, by which the form is judged."""
        self._is_tried = True
        own = self.as_it_stands(inputs, targets)
        if not _are_alike(found, own):
            self._give_up(f"the losses in {str(self._form).removeprefix('torch.')} are others by now")
        return own

    def _give_up(self, why: str) -> None:
        self._form = None
        log.info("looking ahead runs the Boss's network as it stands from now on: %s", why)


def _weights_of(network: nn.Module, form: torch.dtype) -> dict[str, Tensor]:
    """In oneDNN's layout, which wants what a batch norm has in float32 always."""
    norms = [f"{name}." if name else "" for name, one in network.named_modules() if isinstance(one, _BatchNorm)]
    return {
        name: value.to(torch.float32 if name.startswith(tuple(norms)) else form).to_mkldnn()
        if value.is_floating_point()
        else value
        for name, value in network.state_dict().items()
    }


def _are_alike(found: Tensor, own: Tensor) -> bool:
    """Whether they ask for the same keep probabilities; what is not finite as it stands is not asked."""
    finite = torch.isfinite(own)
    own = own[finite]
    return bool((found[finite] - own).abs().mean() <= MOST_ASTRAY * own.abs().mean())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
