"""A running average of a model's weights: what is evaluated, and what translates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DECAY = 0.995
"""Weights of some two hundred steps count; less at the beginning."""


class WeightAverage(nn.Module):
    """An exponential average of the weights of ``model``, as buffers, so that its checkpoints carry it.

    Price: the weights' memory once more, and one pass over it a step.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.updates = 0
        for name, weights in model.named_parameters():
            self.register_buffer(_flat(name), weights.detach().clone())

    def get_extra_state(self) -> Tensor:
        """The number of updates, for ``state_dict``; no buffer, since to read one from a GPU would wait for it."""
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        """The inverse."""
        self.updates = int(state)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights in, after a step of the optimizer."""
        self.updates += 1
        decay = min(DECAY, (1.0 + self.updates) / (10.0 + self.updates))
        pairs = self._pairs(model)
        torch._foreach_lerp_([mine for mine, _ in pairs], [theirs.detach() for _, theirs in pairs], 1.0 - decay)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """``model`` has the average as its weights meanwhile."""
        pairs = self._pairs(model)
        own = [weights.data for _, weights in pairs]
        for average, weights in pairs:
            weights.data = average
        try:
            yield
        finally:
            for (_, weights), data in zip(pairs, own, strict=True):
                weights.data = data

    def _pairs(self, model: nn.Module) -> list[tuple[Tensor, nn.Parameter]]:
        return [(self.get_buffer(_flat(name)), weights) for name, weights in model.named_parameters()]


def _flat(name: str) -> str:
    return name.replace(".", "/")
