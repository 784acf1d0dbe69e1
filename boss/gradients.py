"""Steps whose gradient is NaN or infinite: left out, counted, said aloud, and in the end the training's end."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor, nn

from boss.feed import Feed
from boss.reporter import HOPELESS_STEPS
from protocol.errors import TrainingDiverged

log = logging.getLogger("autoassist.boss")

LOOK_EVERY = 50
"""Steps between two looks at the counts where they are on a GPU: each look waits for the device."""


def drop_poisoned_gradients(boss: nn.Module) -> Tensor:
    """Set every gradient to zero where one of them is NaN or infinite; on a GPU without waiting for it.

    Not beside a ``GradScaler``, which leaves such steps out itself, and lowers its scale by what it finds.

    Returns whether all were finite, shape (), bool, on the gradients' device.
    """
    gradients = [p.grad for p in boss.parameters() if p.grad is not None]
    is_finite = torch.nn.utils.get_total_norm(gradients, norm_type=math.inf).isfinite()
    if is_finite.is_cuda:
        for gradient in gradients:
            gradient.copy_(torch.where(is_finite, gradient, 0.0))
    elif not is_finite:
        for gradient in gradients:
            gradient.zero_()
    return is_finite


class GradientGuard:
    """``drop_poisoned_gradients`` for a training loop, with the count of what was dropped in the feed's figures."""

    def __init__(self, boss: nn.Module, feed: Feed) -> None:
        self._boss = boss
        self._feed = feed
        self._steps = 0
        self._dropped_before = feed.gradients_dropped
        self._in_a_row = torch.zeros((), dtype=torch.int64)
        self._dropped = torch.zeros((), dtype=torch.int64)

    def check(self) -> None:
        """Between ``backward()`` and ``step()``.

        Raises TrainingDiverged after ``HOPELESS_STEPS`` steps in a row without a finite gradient.
        """
        is_bad = ~drop_poisoned_gradients(self._boss)
        if is_bad.device != self._dropped.device:
            self._in_a_row, self._dropped = self._in_a_row.to(is_bad.device), self._dropped.to(is_bad.device)
        self._dropped += is_bad
        self._in_a_row = torch.where(is_bad, self._in_a_row + 1, 0)
        self._steps += 1
        if not is_bad.is_cuda or self._steps % LOOK_EVERY == 0:
            self.look()

    def look(self) -> None:
        """At the counts, which waits for a GPU; raises as ``check`` does."""
        dropped, before = self._dropped_before + int(self._dropped), self._feed.gradients_dropped
        self._feed.gradients_dropped = dropped
        if dropped and not before:
            log.warning(
                "step %d: the gradient is NaN or infinite, though losses may be finite; such steps train nothing and "
                "are counted (gradients_dropped in the report)",
                self._feed.steps - 1,
            )
        if int(self._in_a_row) >= HOPELESS_STEPS:
            raise TrainingDiverged(
                f"step {self._feed.steps - 1}: no gradient was finite in the last {HOPELESS_STEPS} steps, so nothing "
                "is trained any more; lower the learning rate or mend losses() of the workload"
            )
