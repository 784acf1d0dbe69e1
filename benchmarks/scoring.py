"""Instances per second and core that the default policy scores, beside a bare matrix product and a Python loop.

The product multiplies a window's features, already gathered, with the weights: the least that a linear model costs. The
loop scores one instance at a time, as the method's authors do. All on one thread, in one run.

    python -m benchmarks.scoring
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro

from assistant.policies import AutoAssist, Moment
from benchmarks.common import machine, print_table, spread
from protocol.messages import LossRecord


@dataclass(frozen=True, kw_only=True)
class ScoringBenchmark:
    """Settings of the benchmark."""

    n: int = 60_000
    """Instances."""

    width: int = 784
    """Features per instance."""

    window: int = 256
    """Candidates per window."""

    windows: int = 400
    """Windows per repetition."""

    repetitions: int = 5
    """Repetitions of each, in turn."""

    seed: int = 1
    """Seed of features, labels and losses."""


def trained_policy(settings: ScoringBenchmark) -> AutoAssist:
    """A policy that has seen the first half of the instances, so that the second half needs the learned model."""
    rng = np.random.default_rng(settings.seed)
    features = rng.normal(size=(settings.n, settings.width)).astype(np.float32)
    labels = rng.integers(0, 10, settings.n)
    losses = np.exp(features[:, 0] + 0.5 * labels).astype(np.float32)
    policy = AutoAssist(settings.n, floor=0.1, features=features, labels=labels)
    for epoch in range(2):
        for position, ids in enumerate(np.split(rng.permutation(settings.n // 2), settings.n // 2 // 60)):
            keep = np.ones(len(ids), dtype=np.float32)
            policy.observe(
                LossRecord(
                    position=position,
                    step=position,
                    rank=0,
                    learned_through=position,
                    epoch=epoch,
                    ids=ids,
                    losses=losses[ids],
                    keep_probabilities=keep,
                )
            )
    return policy


def rate(score: Callable[[np.ndarray], object], windows: list[np.ndarray]) -> float:
    """Instances per second."""
    start = time.perf_counter()
    for ids in windows:
        score(ids)
    return sum(len(ids) for ids in windows) / (time.perf_counter() - start)


def main(settings: ScoringBenchmark) -> None:
    """Measure and print."""
    print(machine())
    print(f"{settings.n} instances of {settings.width} features, windows of {settings.window}, seed {settings.seed}\n")
    policy, rng = trained_policy(settings), np.random.default_rng(settings.seed + 1)
    half = settings.n // 2
    unseen = [rng.integers(half, settings.n, settings.window) for _ in range(settings.windows)]
    seen = [rng.integers(0, half, settings.window) for _ in range(settings.windows)]
    own, moment = policy.own, Moment(epoch=2, progress=0.5)
    assert own is not None
    model, features, labels = own.learned, own.features, own.learned.labels
    assert isinstance(features, np.ndarray) and labels is not None
    gathered = features[unseen[0]]

    def loop(ids: np.ndarray) -> list[float]:
        scores = []
        for i in ids:
            logit = float(features[i] @ model.w) + float(model.u[labels[i]])
            scores.append(max(policy.floor, 1.0 / (1.0 + math.exp(-logit))))
        return scores

    few = unseen[: max(1, settings.windows // 20)]
    assert policy.keep_probability(unseen[0], moment).min() < 1.0
    measured: dict[str, list[float]] = {name: [] for name in ("learned", "table", "product", "loop")}
    for _ in range(settings.repetitions):
        measured["learned"].append(rate(lambda ids: policy.keep_probability(ids, moment), unseen))
        measured["table"].append(rate(lambda ids: policy.keep_probability(ids, moment), seen))
        measured["product"].append(rate(lambda _: gathered @ model.w, unseen))
        measured["loop"].append(rate(loop, few))
    to_product = [a / b for a, b in zip(measured["learned"], measured["product"], strict=True)]
    to_loop = [a / b for a, b in zip(measured["learned"], measured["loop"], strict=True)]
    rows = [
        ["learned policy (unseen instances), M instances/s", spread([v / 1e6 for v in measured["learned"]])],
        ["loss history (seen instances), M instances/s", spread([v / 1e6 for v in measured["table"]])],
        ["bare matrix product, M instances/s", spread([v / 1e6 for v in measured["product"]])],
        ["per-instance Python loop, M instances/s", spread([v / 1e6 for v in measured["loop"]])],
        ["ratio learned : matrix product", spread(to_product, ".3f")],
        ["ratio learned : Python loop", spread(to_loop, ".1f")],
    ]
    print_table(["scoring, one core", "median (least … greatest)"], rows)


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.scoring", *sys.argv[1:]], one_thread)
    main(tyro.cli(ScoringBenchmark))
