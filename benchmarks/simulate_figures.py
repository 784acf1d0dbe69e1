"""What is asked of the simulation, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.simulate_costs import Costs
from benchmarks.simulate_roles import RoleTimes
from benchmarks.simulate_world import Network
from protocol.settings import require

MOST_BUSY = 0.8
"""Of a core, from which on the broker counts as saturated: queues grow fast beyond it."""
MOST_WAIT = 0.005
"""The same for the Boss's exposed wait."""


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

    warm_up_steps: int = 16
    """Steps before the figures begin."""

    steps: int = 120
    """Steps of which the figures are."""

    least_steps: int = 16
    """The same where there are many ranks and Assistants."""

    messages: int = 60_000
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
    """What the roles take beside the steps."""

    network: Network = field(default_factory=Network)
    """Between them."""

    page: Path | None = None
    """Page that gets the tables between its lines <!-- simulate --> and <!-- /simulate -->, as docs/SCALING.md."""

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
