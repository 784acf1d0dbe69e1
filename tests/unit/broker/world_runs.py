"""Runs for Hypothesis: settings and a data set's size, small enough to be brought to their end."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import strategies as st

from protocol.settings import RunSettings
from protocol.token_batches import I32

MOST_STEPS = 60
MOST_WINDOWS_PER_EPOCH = 24
USUAL_LENGTH = 6


def lengths_of(run: RunSettings, n: int) -> I32 | None:
    """Tokens of each instance, most of them few; None for a run that does not count them."""
    if run.max_tokens is None:
        return None
    drawn = np.random.default_rng(n).lognormal(np.log(USUAL_LENGTH), 0.6, n)
    return np.clip(np.rint(drawn), 1, run.max_tokens).astype(np.int32)


@st.composite
def runs(draw: st.DrawFn, *, deterministic: bool | None = None) -> tuple[RunSettings, int]:
    """Settings and n of a run that a test can bring to its end: at most ``MOST_STEPS`` steps."""
    n = draw(st.integers(1, 400))
    world_size = draw(st.integers(1, min(4, n)))
    by_epochs = draw(st.booleans())
    epochs = draw(st.integers(1, 4))
    boss_instances = draw(st.integers(1, 3 * n))
    instances = n * epochs if by_epochs else boss_instances
    steps = draw(st.sampled_from([20, MOST_STEPS]) | st.integers(1, MOST_STEPS))
    batch_size = min(n // world_size, -(-instances // (steps * world_size)))
    least_window = -(-n // MOST_WINDOWS_PER_EPOCH)
    a_step = max(least_window, batch_size * world_size)
    window_size = draw(st.sampled_from([0, a_step, a_step, least_window, n + 3]) | st.integers(least_window, n))
    by_tokens = draw(st.integers(0, 2)) == 0
    chosen = RunSettings(
        max_tokens=batch_size * USUAL_LENGTH + draw(st.integers(0, 9)) if by_tokens else None,
        pool_steps=draw(st.integers(0, 5)) if by_tokens else 0,
        epochs=epochs if by_epochs else None,
        boss_instances=None if by_epochs else boss_instances,
        batch_size=batch_size,
        world_size=world_size,
        window_size=window_size,
        seed=draw(st.integers(0, 3)),
        policy=draw(st.sampled_from(["autoassist"] * 5 + ["uniform"])),
        prefetch_batches=draw(st.sampled_from([1, 2, 8]) | st.integers(1, 8)),
        stock_batches=draw(st.integers(1, 3)),
        lease_s=1.0,
        deterministic=draw(st.integers(0, 3)) == 0 if deterministic is None else deterministic,
        assistants=draw(st.integers(1, 2)),
        staleness_bound=10_000,
    )
    bound = chosen.pipeline_steps + draw(st.sampled_from([0, 0, 1, 4]))
    return dataclasses.replace(chosen, staleness_bound=bound), n
