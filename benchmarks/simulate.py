"""What one broker can take: runs of 1 … 1,024 ranks and 1 … 64 Assistants, simulated around the real cores.

The broker's core, the Boss's plan and the Assistant's core decide as they do in a run, event by event, under a clock
that jumps. What takes time (steps, scoring, learning, the network, the broker's thread) is a model, and its figures are
settings. All follows from the seed; --measure takes the broker's prices from this machine instead of the stated ones.

    python -m benchmarks.simulate
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import tyro

from benchmarks.common import machine, print_table, spread
from benchmarks.simulate_figures import MOST_BUSY, Figures, Pair, SimulateBenchmark
from benchmarks.simulate_tables import put_into, tables, write
from benchmarks.simulate_world import ENDLESS, CountedEngine, World
from protocol.settings import RunSettings

HOPELESS = 0.98
"""Utilisation from which on shorter steps are not simulated any more: nothing but queues would grow."""
CLOSE = 0.95
"""Share of the utilisation allowed that is near enough to it in the search for a limit."""
LONGER = 2.0
"""The least by which steps grow in that search while no length is known at which the broker is enough."""
TRIES = 5
"""Simulations in that search."""


def simulate(settings: SimulateBenchmark, ranks: int, assistants: int, step_ms: float) -> Figures:
    """One run."""
    run = RunSettings(
        world_size=ranks,
        batch_size=settings.batch_size,
        seed=settings.seed,
        boss_instances=ENDLESS,
        policy="autoassist",
    )
    world = World(
        run,
        assistants,
        CountedEngine(settings.costs),
        step_s=step_ms / 1000,
        times=settings.times,
        network=settings.network,
        seed=settings.seed,
    )
    first = settings.warm_up_steps
    last = first + max(settings.least_steps, min(settings.steps, settings.messages // (ranks * (assistants + 1))))
    world.run(until=lambda: len(world.boss.steps) > first)
    began, busy_s = world.now, world.broker.busy_s_until(world.now)
    helped_s = {name: assistant.busy_s for name, assistant in world.assistants.items()}
    world.run(until=lambda: len(world.boss.steps) > last)
    steps, elapsed_s = world.boss.steps[first:last], world.now - began
    busy_s = world.broker.busy_s_until(world.now) - busy_s
    waited_s = sum(step.waited_s for step in world.boss.steps[first + 1 : last + 1])
    trained = sum(step.instances for step in steps)
    stale = [step.staleness for step in steps if step.staleness is not None]
    return Figures(
        ranks=ranks,
        assistants=assistants,
        step_ms=step_ms,
        steps=len(steps),
        steps_per_s=len(steps) / elapsed_s,
        exposed_wait=waited_s / elapsed_s,
        utilisation=busy_s / elapsed_s,
        broker_ms_per_step=1000 * busy_s / len(steps),
        unfiltered=sum(step.unfiltered for step in steps) / trained,
        off_plan=sum(step.off_plan for step in steps) / len(steps),
        staleness_p50=float(np.quantile(stale, 0.5)) if stale else None,
        staleness_p99=float(np.quantile(stale, 0.99)) if stale else None,
        assistant_busy=min(1.0, max(a.busy_s - helped_s[n] for n, a in world.assistants.items()) / elapsed_s),
    )


def pair_of(settings: SimulateBenchmark, ranks_and_assistants: tuple[int, int]) -> Pair:
    """The step times asked for, the longest first, and the limit."""
    ranks, assistants = ranks_and_assistants
    cells: list[Figures] = []
    for step_ms in sorted(settings.step_ms, reverse=True):
        cells.append(simulate(settings, ranks, assistants, step_ms))
        if cells[-1].utilisation >= HOPELESS:
            break
    return Pair(ranks=ranks, assistants=assistants, cells=cells, limit=limit_of(settings, cells))


def limit_of(settings: SimulateBenchmark, cells: Sequence[Figures]) -> Figures | None:
    """The shortest step time at which one broker is enough, found from the nearest one simulated."""
    best = min((c for c in cells if c.holds), key=lambda c: c.step_ms, default=None)
    at = best or cells[0]
    for _ in range(TRIES):
        if at.holds and at.utilisation >= CLOSE * MOST_BUSY:
            return at
        step_ms = at.broker_ms_per_step / (MOST_BUSY * (1 + CLOSE) / 2)
        if best is None:
            step_ms = max(step_ms, LONGER * at.step_ms)
        elif step_ms >= best.step_ms or (not at.holds and step_ms <= at.step_ms):
            step_ms = math.sqrt(best.step_ms * at.step_ms)
        at = simulate(settings, at.ranks, at.assistants, step_ms)
        if at.holds and (best is None or at.step_ms < best.step_ms):
            best = at
    return best


def all_pairs(settings: SimulateBenchmark) -> list[Pair]:
    """In the order of the tables; what takes longest is begun first."""
    pairs = [(ranks, assistants) for ranks in settings.ranks for assistants in settings.assistants]
    heaviest = sorted(pairs, key=lambda p: -p[0] * (20 + p[1]))
    found = {}
    for pair in _in_turn(settings, heaviest):
        found[pair.ranks, pair.assistants] = pair
        print(f"{len(found)} of {len(pairs)} done", file=sys.stderr, flush=True)
    return [found[pair] for pair in pairs]


def _in_turn(settings: SimulateBenchmark, pairs: Sequence[tuple[int, int]]) -> Iterator[Pair]:
    jobs = min(settings.jobs or os.cpu_count() or 1, len(pairs))
    if jobs == 1:
        yield from map(partial(pair_of, settings), pairs)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(partial(pair_of, settings), pairs)


def _with_measured(settings: SimulateBenchmark) -> SimulateBenchmark:
    from benchmarks.simulate_measure import measured

    costs, ratios = measured(settings.seed)
    print_table(["broker's price, µs", "measured"], [[n, f"{v:.3g}"] for n, v in asdict(costs).items()])
    print(f"\npriced : measured time of the broker's loop, over its runs: {spread(ratios)}\n")
    return replace(settings, costs=costs)


def main(settings: SimulateBenchmark) -> None:
    """Simulate and print."""
    print(machine())
    prices = "measured here" if settings.measure else "stated"
    print(f"seed {settings.seed}, {settings.batch_size} instances per step and rank, prices {prices}\n")
    if settings.measure:
        settings = _with_measured(settings)
    pairs = all_pairs(settings)
    text = tables(pairs, settings)
    print(text)
    if settings.page is not None:
        put_into(settings.page, text)
    if settings.json is not None:
        write(settings.json, pairs, settings)


if __name__ == "__main__":
    main(tyro.cli(SimulateBenchmark))
