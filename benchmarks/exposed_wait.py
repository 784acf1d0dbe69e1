"""How long a Boss of 1 ms steps has nothing to train on, with one Assistant, and while Assistants are killed -9.

The Boss spins: it computes in torch, on one core, all the time, so broker and Assistant have what the other cores have
left. On two cores that is one for both of them; the same with a Boss that sleeps through its step stands beside it, and
tells the system's own share from the machine's. Off-plan steps are those that the Boss drew by itself after an empty
feed of a quarter of a second: they hide a wait, so they are counted too.

    python -m benchmarks.exposed_wait [--json FILE]
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.boss_roles import Assistant, Spin, batches, boss, broker
from benchmarks.common import machine
from benchmarks.figures import Figure, Figures
from boss.feed import Feed


@dataclass(frozen=True, kw_only=True)
class WaitBenchmark:
    """Settings of the benchmark."""

    step_ms: float = 1.0
    """Length of the Boss's step, beside feed and report."""

    seconds: float = 8.0
    """Of each measurement."""

    settle_s: float = 2.0
    """Before each, not counted."""

    kill_every_s: float = 2.0
    """An Assistant is killed and the next one started this often, in the second half."""

    n: int = 200_000
    """Instances."""

    batch_size: int = 128
    """Instances per batch."""

    repetitions: int = 2
    """Repetitions of each, in turn."""

    seed: int = 1
    """Of the run, and of the losses."""

    json: Path | None = None
    """File for the figures: medians, and all values under their names."""


def known() -> dict[str, Figure]:
    """The figures of each kind of step."""
    found: dict[str, Figure] = {}
    for kind, goal in (("spinning", "≤ 0.5"), ("sleeping", "")):
        for when, words in (("calm", "one Assistant"), ("killed", "Assistants killed -9")):
            name = f"{kind}_{when}"
            found |= {
                f"{name}_wait_percent": Figure(f"{kind} Boss, {words}: exposed wait, % of its time", goal),
                f"{name}_steps_per_s": Figure("steps/s", "", ".0f"),
                f"{name}_off_plan_percent": Figure("steps off the plan, %", "0"),
                f"{name}_scored_percent": Figure("batches that an Assistant has scored, %", "", ".0f"),
            }
    return found


class Training:
    """A Boss without a model, whose losses are the instances' own."""

    def __init__(self, feed: Feed, settings: WaitBenchmark, step: Callable[[float], object]) -> None:
        self.feed, self.step, self.step_s = feed, step, settings.step_ms / 1e3
        rng = np.random.default_rng(settings.seed)
        self.losses = torch.from_numpy(rng.lognormal(sigma=1.5, size=settings.n).astype(np.float32))
        self.batches = batches(feed)

    def train(self, seconds: float) -> dict[str, float]:
        """Train for so long; gives the figures of it."""
        clocks, plan = self.feed.clocks, self.feed._plan
        wall, waited, off_plan = clocks.wall_s, clocks.exposed_wait_s, plan.off_plan_steps
        steps = scored = 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ids = next(self.batches)
            scored += plan.pulled[0].staleness is not None
            self.step(self.step_s)
            self.feed.report(self.losses[ids])
            steps += 1
        wall_s = clocks.wall_s - wall
        return {
            "wait_percent": 100 * (clocks.exposed_wait_s - waited) / wall_s,
            "steps_per_s": steps / wall_s,
            "off_plan_percent": 100 * (plan.off_plan_steps - off_plan) / steps,
            "scored_percent": 100 * scored / steps,
        }


@contextmanager
def replaced(address: str, every_s: float) -> Iterator[None]:
    """An Assistant that is killed, and followed by another, again and again.

    Each has a name of its own: a killed one's would be let in only once the broker misses that one.
    """
    over = threading.Event()

    def replace() -> None:
        for number in itertools.count(1):
            one = Assistant(address, "--name", f"assistant-{number}")
            is_last = over.wait(every_s)
            one.kill()
            if is_last:
                return

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def waits(settings: WaitBenchmark, step: Callable[[float], object]) -> dict[str, float]:
    """One run of one kind of step: calm, then while Assistants are killed."""
    run = {"n": settings.n, "batch_size": settings.batch_size, "seed": settings.seed}
    with broker() as address, boss(address, **run) as feed:
        training = Training(feed, settings, step)
        one = Assistant(address)
        try:
            while not one.joined.is_set():
                training.train(0.2)
            training.train(settings.settle_s)
            calm = training.train(settings.seconds)
        finally:
            one.kill()
        with replaced(address, settings.kill_every_s):
            training.train(settings.settle_s)
            killed = training.train(settings.seconds)
    named = (("calm", calm), ("killed", killed))
    return {f"{when}_{name}": value for when, figures in named for name, value in figures.items()}


def measure(settings: WaitBenchmark) -> Figures:
    """Both kinds of step, in turn."""
    found, pause = Figures(), threading.Event()
    kinds: dict[str, Callable[[float], object]] = {"spinning": Spin.small(), "sleeping": pause.wait}
    for _ in range(settings.repetitions):
        for kind, step in kinds.items():
            found.note(**{f"{kind}_{name}": value for name, value in waits(settings, step).items()})
    return found


def main(settings: WaitBenchmark) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    print(machine())
    print(f"steps of {settings.step_ms:g} ms, batches of {settings.batch_size}, seed {settings.seed}\n")
    found = measure(settings)
    found.print("exposed wait", known())
    if settings.json is not None:
        found.write(settings.json, settings)


if __name__ == "__main__":
    main(tyro.cli(WaitBenchmark))
