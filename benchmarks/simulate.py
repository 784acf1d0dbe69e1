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
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import tyro

from benchmarks.common import machine, print_table, spread
from benchmarks.simulate_costs import Costs
from benchmarks.simulate_roles import RoleTimes
from benchmarks.simulate_world import ENDLESS, CountedEngine, Network, World
from protocol.settings import RunSettings, require

MOST_BUSY = 0.8
"""Of a core, from which on the broker counts as saturated: queues grow fast beyond it."""
MOST_WAIT = 0.005
"""The same for the Boss's exposed wait."""
HOPELESS = 0.98
"""Utilisation from which on shorter steps are not simulated any more: nothing but queues would grow."""
CLOSE = 0.95
"""Share of the utilisation allowed that is near enough to it in the search for a limit."""
LONGER = 1.25
"""The least by which steps grow in that search where the broker is not enough."""
TRIES = 5
"""Simulations in that search."""


@dataclass(frozen=True, kw_only=True)
class SimulateBenchmark:
    """Settings of the benchmark."""

    ranks: tuple[int, ...] = (1, 8, 64, 256, 1024)
    """Ranks of the Boss."""

    assistants: tuple[int, ...] = (1, 8, 64)
    """Assistants."""

    step_ms: tuple[float, ...] = (1000.0, 100.0, 10.0)
    """A rank's mean step times."""

    batch_size: int = 64
    """Instances per step and rank."""

    warm_up_steps: int = 20
    """Steps before the figures begin: more than the pipeline is deep."""

    steps: int = 120
    """Steps of which the figures are."""

    least_steps: int = 20
    """The same where there are many ranks and Assistants."""

    messages: int = 100_000
    """Loss reports and records of one simulation: where a step has many, there are fewer steps."""

    seed: int = 1
    """Of step times, selections, and the moments of heartbeats."""

    jobs: int = 0
    """Processes; 0 for as many as there are cores."""

    measure: bool = False
    """Measure the broker's prices on this machine first, and simulate with them."""

    costs: Costs = field(default_factory=Costs)
    """Prices of the broker's work."""

    times: RoleTimes = field(default_factory=RoleTimes)
    """What the roles take; the step time is given above."""

    network: Network = field(default_factory=Network)
    """Between them."""

    json: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        for name in ("ranks", "assistants", "step_ms"):
            require(min(getattr(self, name), default=0) > 0, name, getattr(self, name), "give positive numbers")
        for name in ("batch_size", "steps", "least_steps", "warm_up_steps"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one simulation, from the first step after the warm-up to the last."""

    ranks: int
    assistants: int
    step_ms: float
    """As it was asked for, of a rank; stragglers make a step of all ranks longer."""
    steps: int
    steps_per_s: float
    exposed_wait: float
    """Share of the Boss's time in which it had no batch."""
    utilisation: float
    """Share of the time in which the broker's thread was busy."""
    broker_ms_per_step: float
    unfiltered: float
    """Share of the instances trained that no Assistant had selected, those of off-plan steps included."""
    off_plan: float
    """Share of the steps that the Boss drew by itself."""
    staleness_p50: float | None
    staleness_p99: float | None
    assistant_busy: float
    """Share of the time, of the busiest Assistant."""

    @property
    def holds(self) -> bool:
        """Whether one broker is enough."""
        return self.utilisation < MOST_BUSY and self.exposed_wait <= MOST_WAIT


@dataclass(frozen=True, kw_only=True)
class Pair:
    """All simulations of a number of ranks and of Assistants."""

    ranks: int
    assistants: int
    cells: list[Figures]
    limit: Figures | None
    """The shortest steps at which one broker is enough; None where none was found."""


def simulate(settings: SimulateBenchmark, ranks: int, assistants: int, step_ms: float) -> Figures:
    """One run."""
    run = RunSettings(
        world_size=ranks,
        batch_size=settings.batch_size,
        seed=settings.seed,
        boss_instances=ENDLESS,
        policy="autoassist",
    )
    times = replace(settings.times, step_s=step_ms / 1000)
    world = World(
        run, assistants, CountedEngine(settings.costs), times=times, network=settings.network, seed=settings.seed
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
        if not at.holds:
            step_ms = max(step_ms, LONGER * at.step_ms)
        if best is not None and step_ms >= best.step_ms:
            step_ms = math.sqrt(best.step_ms * at.step_ms)
        at = simulate(settings, at.ranks, at.assistants, step_ms)
        if at.holds and (best is None or at.step_ms < best.step_ms):
            best = at
    return best


def all_pairs(settings: SimulateBenchmark) -> list[Pair]:
    """In the order of the tables; what takes longest is begun first."""
    pairs = [(ranks, assistants) for ranks in settings.ranks for assistants in settings.assistants]
    heaviest = sorted(pairs, key=lambda p: -p[0] * (20 + p[1]))
    jobs = min(settings.jobs or os.cpu_count() or 1, len(pairs))
    if jobs == 1:
        done: Iterable[Pair] = map(partial(pair_of, settings), heaviest)
        found = {(p.ranks, p.assistants): p for p in done}
    else:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            found = {(p.ranks, p.assistants): p for p in pool.map(partial(pair_of, settings), heaviest)}
    return [found[pair] for pair in pairs]


def cell_rows(pairs: Sequence[Pair], settings: SimulateBenchmark) -> list[list[str]]:
    """A row for each step time; dashes where the broker was saturated at a longer one."""
    rows = []
    for pair in pairs:
        found = {cell.step_ms: cell for cell in pair.cells}
        for step_ms in sorted(settings.step_ms, reverse=True):
            start = [str(pair.ranks), str(pair.assistants), f"{step_ms:g}"]
            rows.append(start + (_words(found[step_ms]) if step_ms in found else ["-"] * 8))
    return rows


def _words(cell: Figures) -> list[str]:
    stale = [_staleness(cell.staleness_p50), _staleness(cell.staleness_p99)]
    return [
        f"{cell.steps_per_s:.3g}",
        f"{100 * cell.exposed_wait:.2f}",
        f"{100 * cell.utilisation:.1f}",
        f"{cell.broker_ms_per_step:.3g}",
        " / ".join(stale),
        f"{100 * cell.unfiltered:.1f}",
        f"{100 * cell.off_plan:.1f}",
        f"{100 * cell.assistant_busy:.0f}",
    ]


def _staleness(steps: float | None) -> str:
    return "-" if steps is None else f"{steps:.0f}"


COLUMNS = ["steps/s", "exposed wait, %", "broker busy, %", "broker, ms a step", "staleness p50 / p99", "unfiltered, %"]
COLUMNS += ["off plan, %", "busiest Assistant, %"]


def limit_rows(pairs: Sequence[Pair]) -> list[list[str]]:
    """A row for each pair."""
    rows = []
    for pair in pairs:
        start, limit = [str(pair.ranks), str(pair.assistants)], pair.limit
        rows.append(start + ([f"{limit.step_ms:.3g}", *_words(limit)] if limit is not None else ["-"] * 9))
    return rows


def most_ranks(pairs: Sequence[Pair], settings: SimulateBenchmark) -> list[list[str]]:
    """For each number of Assistants, the most ranks at which each step time holds."""
    rows = []
    for assistants in settings.assistants:
        row = [str(assistants)]
        for step_ms in settings.step_ms:
            held = [
                c.ranks
                for p in pairs
                if p.assistants == assistants
                for c in p.cells
                if c.step_ms == step_ms and c.holds
            ]
            row.append(str(max(held)) if held else "-")
        rows.append(row)
    return rows


def write(path: Path, pairs: Sequence[Pair], settings: SimulateBenchmark) -> None:
    """All figures, the machine and the settings."""
    given = {name: value for name, value in asdict(settings).items() if name != "json"}
    content = {"machine": machine(), "settings": given, "pairs": [asdict(pair) for pair in pairs]}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


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
    print_table(["ranks", "Assistants", "step, ms", *COLUMNS], cell_rows(pairs, settings))
    print(
        f"\nthe shortest steps at which one broker is enough: busy < {MOST_BUSY:.0%}, exposed wait <= {MOST_WAIT:.1%}\n"
    )
    print_table(["ranks", "Assistants", "step, ms", *COLUMNS], limit_rows(pairs))
    print("\nthe most ranks, of those simulated, for which it is enough\n")
    print_table(["Assistants", *(f"steps of {ms:g} ms" for ms in settings.step_ms)], most_ranks(pairs, settings))
    if settings.json is not None:
        write(settings.json, pairs, settings)


if __name__ == "__main__":
    main(tyro.cli(SimulateBenchmark))
