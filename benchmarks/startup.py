"""How long the roles take to start, as processes of this machine, files cached.

* The broker, until it listens.
* An Assistant, until it has joined a run that waits for it: without a WORKLOAD, and with one (``--workload``).
* Then the Boss begins: until the first batch that an Assistant has scored, and, with random-drop, which leaves out from
  the first window on, until the first batch from which something is left out.

    python -m benchmarks.startup [--json FILE]
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks.boss_roles import assistant, batches, boss, broker, command
from benchmarks.common import machine
from benchmarks.figures import Figure, Figures
from boss.feed import Feed
from workloads import load_workload

JOIN_S = 60.0


@dataclass(frozen=True, kw_only=True)
class StartupBenchmark:
    """Settings of the benchmark."""

    workload: str = "fashion-mnist"
    """Of the Assistant that has one."""

    batch_size: int = 128
    """Instances per batch."""

    step_ms: float = 5.0
    """For which the Boss sleeps in each step."""

    repetitions: int = 5
    """Repetitions of each, in turn."""

    json: Path | None = None
    """File for the figures: medians, and all values under their names."""


KNOWN = {
    "broker_s": Figure("broker listens after, s", "< 0.5"),
    "assistant_s": Figure("Assistant without a WORKLOAD has joined after, s", "< 3"),
    "workload_assistant_s": Figure("Assistant with a WORKLOAD, s", "< 3"),
    "scored_s": Figure("first batch that an Assistant has scored, all being up, s", "< 5"),
    "filtered_s": Figure("first batch from which something is left out (random-drop), s", "< 5"),
}


def first_batch_s(feed: Feed, settings: StartupBenchmark, *, filtered: bool) -> float:
    """Seconds of training until a batch has been scored, or ``filtered``."""
    pause, start = threading.Event(), time.perf_counter()
    for ids in batches(feed):
        batch = feed._plan.pulled[0]
        if (batch.keep_probabilities.min() < 1.0) if filtered else (batch.staleness is not None):
            return time.perf_counter() - start
        pause.wait(settings.step_ms / 1e3)
        feed.report(torch.ones(len(ids)))
    raise AssertionError("the run has ended before a batch was filtered")


def start(settings: StartupBenchmark) -> dict[str, float]:
    """One repetition."""
    found: dict[str, float] = {}
    fingerprint = load_workload(settings.workload).fingerprint()
    of_workload = {"n": fingerprint.n, "dataset_id": fingerprint.dataset_id, "batch_size": settings.batch_size}
    for policy in ("autoassist", "random-drop"):
        began = time.perf_counter()
        with broker() as address:
            found["broker_s"] = time.perf_counter() - began
            with boss(address, policy=policy, **of_workload) as feed:
                words = (settings.workload,) if policy == "autoassist" else ()
                with assistant(address, *words) as one:
                    if not one.joined.wait(JOIN_S):
                        raise AssertionError(f"{' '.join(command('assistant', *words))} has not joined in {JOIN_S} s")
                    found["workload_assistant_s" if words else "assistant_s"] = one.joined_s
                    name = "scored_s" if words else "filtered_s"
                    found[name] = first_batch_s(feed, settings, filtered=not words)
    return found


def main(settings: StartupBenchmark) -> None:
    """Measure and print."""
    print(machine())
    print(f"batches of {settings.batch_size}, steps of {settings.step_ms:g} ms, workload {settings.workload}\n")
    found = Figures()
    for _ in range(settings.repetitions):
        found.note(**start(settings))
    found.print("start-up", KNOWN)
    if settings.json is not None:
        found.write(settings.json, settings)


if __name__ == "__main__":
    main(tyro.cli(StartupBenchmark))
