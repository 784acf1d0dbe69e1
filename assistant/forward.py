"""The forward pass to look ahead with: of the forms that a CPU knows, the cheapest that finds the same losses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

log = logging.getLogger("autoassist.assistant")

FORMS: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
"""What oneDNN's own layout is tried in."""
ENOUGH = 64
"""Instances of the first piece by which a form is chosen: fewer say little of the costs of a full one."""
TURNS = 4
"""How often each form is timed; the least counts, and the first pays for oneDNN's preparations."""
MOST_ASTRAY = 0.02
"""How far the losses of a form may lie from the network's own, in the mean and as a share of their mean: by so much a
keep probability moves."""


class CheapForward:
    """Losses of the Boss's network in ``eval`` mode on the CPU, for as little as they are to be had.

    Where a network is run as it stands, convolutions and pools change the layout of their tensors or do without the
    best there is. oneDNN's layout (``Tensor.to_mkldnn``) is kept from layer to layer, and newer processors have twice
    the arithmetic in bfloat16. Which form is cheapest depends on network and processor, and some networks take no
    other, since a layer sees into its tensors. So all are tried on the first full piece.
    """

    def __init__(self, losses: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._losses_of = losses
        self._is_chosen = False
        self._form: torch.dtype | None = None
        """None is the network as it stands."""
        self._network: nn.Module = nn.Identity()
        self._weights: dict[torch.dtype, dict[str, Tensor]] = {}
        """In each form that has been computed in."""

    def take(self, network: nn.Module) -> None:
        """Go by this network from now on, with the weights that it has now."""
        self._network = network
        self._weights = {}

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Shape ``(k,)``, float32, without gradient."""
        with torch.inference_mode():
            if not self._is_chosen and len(inputs) >= ENOUGH:
                self._choose(inputs, targets)
            if self._form is None:
                return self.as_it_stands(inputs, targets)
            try:
                return self.in_form(self._form, inputs, targets)
            except Exception as error:  # what fails as it stands, too, is raised there
                self._form = None
                log.info("looking ahead computes as the Boss's network stands from now on: %s", _first_line(error))
                return self.as_it_stands(inputs, targets)

    def as_it_stands(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """By the network's own ``forward``."""
        return self._losses_of(self._network(inputs), targets).float()

    def in_form(self, form: torch.dtype, inputs: Tensor, targets: Tensor) -> Tensor:
        """In oneDNN's layout, with numbers of ``form``; raises what the network does where it takes no such tensors."""
        if form not in self._weights:
            weights = self._network.state_dict()
            self._weights[form] = {name: _in_layout(value, form) for name, value in weights.items()}
        outputs = torch.func.functional_call(self._network, self._weights[form], (_in_layout(inputs, form),))
        return self._losses_of(outputs.to_dense().to(inputs.dtype), targets).float()

    def _choose(self, inputs: Tensor, targets: Tensor) -> None:
        self._is_chosen = True
        least_s, expected = self._timed(partial(self.as_it_stands, inputs, targets))
        if inputs.dtype != torch.float32:
            return
        for form in FORMS:
            try:
                took_s, found = self._timed(partial(self.in_form, form, inputs, targets))
            except Exception as error:  # a network's own code may say in any way that it takes no such tensors
                log.debug("looking ahead cannot compute in oneDNN's layout: %s", _first_line(error))
                continue
            if took_s < least_s and _are_alike(found, expected):
                least_s, self._form = took_s, form

    def _timed(self, compute: Callable[[], Tensor]) -> tuple[float, Tensor]:
        """Its time on this core, whoever else was there meanwhile, and what it found."""
        took_s = []
        for _ in range(TURNS):
            began_s = time.thread_time()
            found = compute()
            took_s.append(time.thread_time() - began_s)
        return min(took_s), found


def _in_layout(value: Tensor, form: torch.dtype) -> Tensor:
    return value.to(form).to_mkldnn() if value.is_floating_point() else value


def _are_alike(found: Tensor, expected: Tensor) -> bool:
    """Whether they ask for the same keep probabilities, which are losses over their mean."""
    return bool((found - expected).abs().mean() <= MOST_ASTRAY * expected.abs().mean())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
