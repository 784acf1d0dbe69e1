"""The mean that the Boss trains on: of finite losses, weighed by 1/π where the selection's bias is to be undone."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import nll_loss

from protocol.arrays import F32
from protocol.settings import RunSettings

if TYPE_CHECKING:
    from boss.plan import RankBatch

SHARED_DTYPES = (torch.float32, torch.float64)
MOST_SHARES = 4096
"""Of longer batches ``mean`` adds up more precisely, and their steps do not feel it."""
MOST_COUNTS = 256
_shares: dict[tuple[int, torch.dtype], Tensor] = {}


def mean_loss(losses: Tensor, batch: RankBatch, settings: RunSettings, counts: Tensor | None = None) -> Tensor:
    """Mean of per-instance losses, shape ``(batch,)``, with gradient; padding and what is not finite is left out.

    Weighed: Σ w_i·loss_i / Σ w_i with w_i = min(1/π_i, clip), so the weights of a batch have mean 1 and a batch of rare
    instances takes no longer step. Price: a mean so normalised is biased by a part that falls with the batch's size.
    With several ranks it is the rank's share of the mean over all of them, times their number: averaged over the ranks,
    as DDP does with gradients, it is that mean. With ``counts`` it is the mean over tokens.
    """
    if counts is not None:
        return _mean_per_token(losses, counts, batch, settings)
    real = losses[: len(losses) - batch.padding] if batch.padding else losses
    weights = instance_weights(batch.keep_probabilities[: len(real)], settings) if settings.weighs else None
    fast = _mean_of_finite if real.is_cuda else plain_mean
    if weights is None and len(real) and (mean := fast(real)) is not None:  # of padding alone the mean is 0
        return mean if batch.share == 1.0 else batch.share * mean
    finite = torch.isfinite(real)
    clean = torch.where(finite, real, 0.0)
    if weights is None:
        return batch.share * clean.sum() / finite.sum().clamp(min=1)
    scale = torch.where(finite, torch.from_numpy(weights).to(real.device, non_blocking=True), 0.0)
    return batch.share * (scale * clean).sum() / scale.sum().clamp(min=1e-12)


def plain_mean(losses: Tensor) -> Tensor | None:
    """The mean of losses on the CPU, shape ``(batch,)``, in one operation, every step's way; None where some are not
    finite, or where looking would wait for a device.

    A dot product with 1/n takes half of what ``mean`` does when a step has just emptied the caches. The gradient is
    the same to the last bit where a power of two comes back, as from ``backward`` itself; the mean may differ in its
    last digit.
    """
    if not losses.is_cpu:
        return None
    shares = _shares.get((losses.numel(), losses.dtype))
    if shares is not None:
        mean = losses.dot(shares)
    elif not losses.is_floating_point():
        return None
    elif losses.dtype in SHARED_DTYPES and losses.numel() <= MOST_SHARES:
        mean = losses.dot(_made(losses.numel(), losses.dtype))
    else:
        mean = losses.mean()
    return mean if isfinite(mean.item()) else None


def _mean_of_finite(losses: Tensor) -> Tensor:
    """The mean of the finite ones, shape ``(batch,)``, without looking; of none it is NaN, with a gradient of 0.

    Four launches on a device, where ``isfinite``, ``where`` and two sums are fourteen: each costs the training thread
    5 to 30 µs. ``nll_loss`` of one column is a mean that leaves out what has the class to be ignored.
    """
    known = losses.detach()
    is_bad = (known - known).ne(0.0)  # of NaN and infinity the difference to themselves is NaN
    return -nll_loss(losses.unsqueeze(1), is_bad.view(torch.uint8), ignore_index=1)


def _made(count: int, dtype: torch.dtype) -> Tensor:
    """1/n for each of so many, kept; never an inference tensor, which no later step could train with."""
    if len(_shares) >= MOST_COUNTS:
        _shares.clear()
    with torch.inference_mode(False):
        shares = torch.full((count,), 1.0 / count, dtype=dtype, device="cpu")
    _shares[count, dtype] = shares
    return shares


def _mean_per_token(losses: Tensor, counts: Tensor, batch: RankBatch, settings: RunSettings) -> Tensor:
    """Mean over all tokens of the step; each instance's loss is the mean of its ``counts``, both of shape ``(batch,)``.

    Weighed alike. With several ranks their tokens are added up, one number a step by torch.distributed,
    and averaged over the ranks what is returned is the mean over the tokens of all.
    """
    real = losses[: len(losses) - batch.padding]
    finite = torch.isfinite(real)
    tokens = counts[: len(real)].to(real)
    if settings.weighs:
        weights = np.minimum(1.0 / batch.keep_probabilities[: len(real)], settings.weight_clip).astype(np.float32)
        tokens = tokens * torch.from_numpy(weights).to(real.device, non_blocking=True)
    tokens = torch.where(finite, tokens, 0.0)
    total, ranks = tokens.sum(), settings.world_size
    if ranks > 1:
        total = total.detach().clone()
        dist.all_reduce(total)
    return ranks * (tokens * torch.where(finite, real, 0.0)).sum() / total.clamp(min=1e-12)


def instance_weights(keep_probabilities: F32, settings: RunSettings) -> F32 | None:
    """1/π, clipped, shape ``(batch,)``; None where all weigh the same."""
    if not settings.weighs or (keep_probabilities == keep_probabilities[:1]).all():
        return None
    weights: F32 = np.minimum(1.0 / keep_probabilities, settings.weight_clip).astype(np.float32)
    return weights
