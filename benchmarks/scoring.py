"""Instances per second of CPU that an Assistant of the default policy scores, beside bare products and a Python loop.

Ours is the whole of it: window in, selection out, with gate, guard and drawing. Seen are instances whose losses are
known, as in the middle of a run; of the unseen the Assistant's own models must tell: for that their features are
fetched. The bare product fetches a window's features too and multiplies them by one column, the least that a linear
model costs; the wide one by as many columns as our models have. The loop does what the method's authors' sampler does:
one instance at a time, out of a data set of tensors. All on one thread, in turn, in one run. Condensing the features,
once at an Assistant's start, is not in the rates and stands in a line of its own.

    python -m benchmarks.scoring [--json FILE]
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
import tyro
from torch.utils.data import TensorDataset

from assistant.condensed import condensed
from assistant.core import AssistantCore
from assistant.policies import AutoAssist, make_policy
from benchmarks.common import image_like, machine, print_table, spread
from protocol.arrays import F32, I64
from protocol.messages import LossRecord, Selection, Window
from protocol.settings import RunSettings

CLASSES = 10
REPORT = 60
PASS = 0.3
"""The authors' base probability: of so many they ask no model."""


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
    """Windows per repetition; a twentieth of them for the loop."""

    repetitions: int = 7
    """Repetitions of each, in turn."""

    seed: int = 1
    """Seed of features, labels, losses and windows."""

    json: Path | None = None
    """File for all values."""


@dataclass(frozen=True)
class Data:
    """Instances that are told apart by a feature and by their label."""

    features: F32
    labels: I64
    losses: F32

    @classmethod
    def drawn(cls, settings: ScoringBenchmark) -> Data:
        """At random."""
        rng = np.random.default_rng(settings.seed)
        features = image_like(rng, settings.n, settings.width)
        labels = rng.integers(0, CLASSES, settings.n)
        return cls(features, labels, np.exp(features[:, 0] + 0.5 * labels).astype(np.float32))


def trained_core(settings: ScoringBenchmark, data: Data) -> AssistantCore:
    """An Assistant that has seen the first half of the instances twice, so that the second half needs its models."""
    run = RunSettings(seed=settings.seed)
    core = AssistantCore(run, make_policy(run, settings.n, data.features, data.labels))
    rng, half, position = np.random.default_rng(settings.seed), settings.n // 2, 0
    for epoch in range(2):
        for ids in np.array_split(rng.permutation(half), max(1, half // REPORT)):
            record = LossRecord(
                position=position,
                step=position,
                rank=0,
                learned_through=position,
                epoch=epoch,
                ids=ids,
                losses=data.losses[ids],
                keep_probabilities=np.ones(len(ids), dtype=np.float32),
            )
            core.receive(record)
            core.work()
            position += 1
    return core


def select(core: AssistantCore, ids: I64) -> Selection:
    """A window in the middle of the run, to its selection."""
    core.receive(Window(window=0, attempt=1, epoch=2, progress=0.5, ids=ids))
    (selection,) = core.work()
    assert isinstance(selection, Selection)
    return selection


class AuthorsLoop:
    """Paper section 4.1 as its authors' sampler for images does it, whatever the model's state."""

    def __init__(self, data: Data, weights: F32, biases: F32) -> None:
        self.dataset = TensorDataset(torch.from_numpy(data.features), torch.from_numpy(data.labels))
        self.weights, self.biases = weights, biases

    def __call__(self, ids: I64) -> list[int]:
        """IDs that pass."""
        kept = []
        for i in ids.tolist():
            coin = np.random.uniform()
            x, label = self.dataset[i]
            y = label.item()
            if coin < PASS or (coin - PASS) / (1.0 - PASS) < self.importance(x, int(y)):
                kept.append(i)
        return kept

    def importance(self, x: torch.Tensor, y: int) -> float:
        """σ(w·x + u[y])."""
        return float(1.0 / (1.0 + np.exp(-(self.weights.dot(x.view(-1).numpy()) + self.biases[y]))))


def rate(score: Callable[[I64], object], windows: list[I64]) -> float:
    """Instances per second of this thread's CPU time, which other processes do not lengthen by much."""
    start = time.thread_time()
    for ids in windows:
        score(ids)
    return sum(map(len, windows)) / (time.thread_time() - start)


def measure(settings: ScoringBenchmark) -> dict[str, list[float]]:
    """All values by name, one for each repetition."""
    data = Data.drawn(settings)
    core, rng, half = trained_core(settings, data), np.random.default_rng(settings.seed + 1), settings.n // 2
    unseen = [rng.integers(half, settings.n, settings.window) for _ in range(settings.windows)]
    seen = [rng.integers(0, half, settings.window) for _ in range(settings.windows)]
    for ids in (seen[0], unseen[0]):
        assert len(select(core, ids).kept_ids) < len(ids), "nothing is left out: the gate is closed"
    one = rng.normal(size=settings.width).astype(np.float32)
    wide = rng.normal(size=(settings.width, columns_of(core))).astype(np.float32)
    loop = AuthorsLoop(data, one / np.float32(settings.width), np.zeros(CLASSES, dtype=np.float32))
    few, found = unseen[: max(1, settings.windows // 20)], dict[str, list[float]]()
    for _ in range(settings.repetitions):
        ours = rate(lambda ids: select(core, ids), seen)
        new = rate(lambda ids: select(core, ids), unseen)
        product = rate(lambda ids: data.features.take(ids, axis=0) @ one, unseen)
        wider = rate(lambda ids: data.features.take(ids, axis=0) @ wide, unseen)
        authors = rate(loop, few)
        began = time.thread_time()
        condensed(data.features.view())
        values = {
            "condense_s": time.thread_time() - began,
            "seen_per_s": ours,
            "unseen_per_s": new,
            "matmul_per_s": product,
            "wide_matmul_per_s": wider,
            "loop_per_s": authors,
            "ratio_to_matmul": ours / product,
            "ratio_to_loop": ours / authors,
            "unseen_ratio_to_matmul": new / product,
            "unseen_ratio_to_wide_matmul": new / wider,
            "unseen_ratio_to_loop": new / authors,
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return found


def columns_of(core: AssistantCore) -> int:
    """Numbers that our models need of an instance's features: one a class, and that of the logistic model."""
    policy = getattr(core.policy, "policy", None)
    assert isinstance(policy, AutoAssist) and policy.own is not None and policy.own.classifier is not None
    return policy.own.classifier.classes + 1


def rows_of(found: dict[str, list[float]]) -> list[list[str]]:
    """The table."""
    millions = {
        "seen_per_s": "seen instances, M a second of CPU",
        "unseen_per_s": "unseen instances",
        "matmul_per_s": "rows gathered and a bare matrix product, one column",
        "wide_matmul_per_s": "the same with as many columns as our models",
        "loop_per_s": "the authors' loop",
    }
    ratios = {
        "ratio_to_matmul": ("ratio seen : product", ".2f"),
        "ratio_to_loop": ("ratio seen : loop", ".0f"),
        "unseen_ratio_to_matmul": ("ratio unseen : product of one column", ".2f"),
        "unseen_ratio_to_wide_matmul": ("ratio unseen : product of as many columns", ".2f"),
        "unseen_ratio_to_loop": ("ratio unseen : loop", ".0f"),
    }
    rows = [[words, spread([value / 1e6 for value in found[name]])] for name, words in millions.items()]
    rows += [[words, spread(found[name], form)] for name, (words, form) in ratios.items()]
    return [*rows, ["features condensed at the start, s of CPU", spread(found["condense_s"], ".2f")]]


def write(path: Path, found: dict[str, list[float]], settings: ScoringBenchmark) -> None:
    """Medians by name; all values, the machine and the settings beside them."""
    medians = {name: statistics.median(values) for name, values in found.items()}
    given = {name: value for name, value in asdict(settings).items() if name != "json"}
    beside = {"machine": machine(), "settings": given, "values": found}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(medians | beside), indent=2) + b"\n")


def main(settings: ScoringBenchmark) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    print(machine())
    print(f"{settings.n} instances of {settings.width} features, windows of {settings.window}, seed {settings.seed}\n")
    found = measure(settings)
    print_table(["scoring, one core", "median (least … greatest)"], rows_of(found))
    if settings.json is not None:
        write(settings.json, found, settings)


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.scoring", *sys.argv[1:]], one_thread)
    main(tyro.cli(ScoringBenchmark))
