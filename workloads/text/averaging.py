"""Averages of a model's weights, the running one and the best evaluations': what is evaluated, and translates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

DECAY = 0.995
"""Weights of some two hundred steps count; less at the beginning."""
KEPT = 3
"""Evaluations whose weights are kept."""


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

    def in_place_of(self, model: nn.Module) -> AbstractContextManager[None]:
        """``model`` has the average as its weights meanwhile."""
        return replaced(model, {name: self.get_buffer(_flat(name)) for name, _ in model.named_parameters()})

    def copied(self, model: nn.Module) -> dict[str, Tensor]:
        """The average by the names of the model's weights, in host memory."""
        return {name: self.get_buffer(_flat(name)).to("cpu", copy=True) for name, _ in model.named_parameters()}

    def _pairs(self, model: nn.Module) -> list[tuple[Tensor, nn.Parameter]]:
        return [(self.get_buffer(_flat(name)), weights) for name, weights in model.named_parameters()]


class BestAverages(nn.Module):
    """The running averages of the evaluations that lost least on the validation part, and the mean of them.

    What is evaluated is the running average until that mean loses less, as after a training that went on too long.
    Held in host memory, and part of the model's checkpoints. Price: ``KEPT`` times the weights, there and in each
    checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[float, dict[str, Tensor]]] = []
        """Loss and weights, the best first."""
        self.is_chosen = False
        """Whether the mean lost less than the latest running average."""
        self.judged_by = ""
        """Digest of the held-out parts of the latest evaluation; "" where weights do not say."""

    def get_extra_state(self) -> dict[str, Any]:
        """For ``state_dict``; no buffers, since there are none before the first evaluation."""
        losses, weights = [loss for loss, _ in self.kept], [weights for _, weights in self.kept]
        return {"losses": losses, "weights": weights, "is_chosen": self.is_chosen, "judged_by": self.judged_by}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.kept = list(zip(state["losses"], state["weights"], strict=True))
        self.is_chosen = state["is_chosen"]
        self.judged_by = state.get("judged_by", "")

    def offer(self, loss: float, weights: dict[str, Tensor]) -> None:
        """Keep weights with this loss, where it is among the least."""
        self.kept = sorted([*self.kept, (loss, weights)], key=lambda one: one[0])[:KEPT]

    def in_place_of(self, model: nn.Module) -> AbstractContextManager[None]:
        """``model`` has the mean as its weights meanwhile."""
        device = next(model.parameters()).device
        names = [name for name, _ in model.named_parameters()]
        means = {name: torch.stack([weights[name] for _, weights in self.kept]).mean(dim=0) for name in names}
        return replaced(model, {name: mean.to(device) for name, mean in means.items()})


@contextmanager
def replaced(model: nn.Module, others: Mapping[str, Tensor]) -> Iterator[None]:
    """``model`` has others as its weights meanwhile."""
    own = {name: weights.data for name, weights in model.named_parameters()}
    for name, weights in model.named_parameters():
        weights.data = others[name]
    try:
        yield
    finally:
        for name, weights in model.named_parameters():
            weights.data = own[name]


def _flat(name: str) -> str:
    return name.replace(".", "/")
