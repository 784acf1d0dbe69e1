"""A training whose device lags: steps of few launches and much work, which the training thread runs far ahead of."""

from __future__ import annotations

import time

import torch

from benchmarks.boss_roles import batches, boss, broker

SIDE = {"cuda": 8192, "cpu": 64}
PRODUCTS = 10
"""Of square matrices in bfloat16, a step."""
STEPS = 300
BATCH = 512


def lagging(device: str, seed: int) -> dict[str, float]:
    """What becomes of the losses of ``STEPS`` steps, as percentages of what was reported."""
    torch.manual_seed(seed)
    matrix = torch.randn(SIDE[device], SIDE[device], device=device).bfloat16() / SIDE[device] ** 0.5
    known = torch.ones(BATCH, device=device, requires_grad=True)
    with broker() as address, boss(address, n=100 * BATCH, batch_size=BATCH, seed=seed, policy="uniform") as feed:
        start = time.perf_counter()
        for _, ids in zip(range(STEPS), batches(feed), strict=False):
            product = matrix
            for _ in range(PRODUCTS):
                product = matrix @ product
            losses = known[: len(ids)] + 0.0 * product[0, 0].float()
            feed.report(losses).backward()  # type: ignore[no-untyped-call]
        launched_s, on_their_way = time.perf_counter() - start, feed.steps - feed._reporter.sent
        if device == "cuda":
            torch.cuda.synchronize()
        return {
            "lag_step_ms": 1e3 * (time.perf_counter() - start) / STEPS,
            "lag_steps": (time.perf_counter() - start - launched_s) / launched_s * STEPS,
            "lag_on_their_way": on_their_way,
            "lag_dropped_percent": 100 * feed._reporter.values_dropped / feed.instances,
        }
