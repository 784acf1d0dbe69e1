"""Loss records as a Boss would cause them, for the tests of the policies."""

from __future__ import annotations

import numpy as np

from assistant.policies import Moment, Policy
from protocol.messages import LossRecord

N = 4000
MIDDLE = Moment(epoch=2, progress=0.5)


def record(
    position: int, ids: np.ndarray, losses: np.ndarray, epoch: int, keep: np.ndarray | None = None
) -> LossRecord:
    """A loss record of one rank."""
    return LossRecord(
        position=position,
        step=position,
        rank=0,
        learned_through=position,
        epoch=epoch,
        ids=ids.astype(np.int64),
        losses=losses.astype(np.float32),
        keep_probabilities=(np.ones(len(ids)) if keep is None else keep).astype(np.float32),
    )


def feed_epochs(policy: Policy, losses_of: np.ndarray, epochs: int, rng: np.random.Generator, *, permute: bool) -> int:
    """Report every instance's loss once per epoch, 64 at a time; ``permute`` deals losses to random instances."""
    position = 0
    for epoch in range(epochs):
        order = rng.permutation(N)
        values = rng.permutation(losses_of) if permute else losses_of
        for start in range(0, N, 64):
            ids = order[start : start + 64]
            policy.observe(record(position, ids, values[ids], epoch))
            position += 1
    return position
