"""What every policy is: the rule that turns what is known of an instance into its keep probability π."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from numpy import int64
from numpy.typing import NDArray

from assistant.estimates import State
from assistant.tables import Tables
from protocol.arrays import F32, I64, empty_i64
from protocol.messages import LossRecord
from protocol.settings import RunSettings
from protocol.sparse import Features

CLEARLY = 3.0
"""Standard errors above zero from which a lift counts as positive: one false opening in 700 looks."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in the run a window stands."""

    epoch: int
    progress: float
    """Fraction of the run's budget, 0 … 1."""


@dataclass(frozen=True, slots=True)
class Given:
    """All that a policy may be made of."""

    settings: RunSettings
    n: int
    """Number of instances; IDs are ``0 … n-1``."""
    floor: float
    """γ: the run's, or the policy's own where the run sets none."""
    features: Features | None = None
    """Shape (n, d), dense or sparse; None without a workload that has some."""
    labels: NDArray[int64] | None = None
    """Shape (n,); None without a workload that has some."""
    looks_ahead: bool = False
    """Whether losses will be known afresh; see ``Policy.observe_fresh``."""
    tables: Tables = field(default_factory=Tables)
    """Where arrays of shape (n, …) are to lie; of large ones ``state_dict`` holds the shape alone."""


class Policy(ABC):
    """One rule. ``observe`` in log order, ``keep_probability`` at any time; neither does I/O.

    What it knows must be a function of what it observed, and all of it in ``state_dict``: that is what makes a resumed
    run the same to the bit. So ``keep_probability`` changes nothing and draws nothing. Warm-up, anneal, gate, floor,
    noise guard and class floor are laid over every policy by ``assistant.policies.shared``; none need care for them.
    """

    default_floor: ClassVar[float] = 0.1
    """γ where the run sets none."""
    wants_gate: ClassVar[bool] = True
    """False for a policy that judges its own lift, or that shall shrink without knowing anything."""

    wants_noise_guard: ClassVar[bool] = True
    """False for a control, and for a published rule, which is left as it is: the noise guard's auto leaves it alone."""

    takes_fresh_losses: ClassVar[bool] = False
    """Whether looking ahead is of use to it."""

    @classmethod
    def make(cls, given: Given) -> Policy:
        """The policy of a run; override where the constructor takes something. Raises SettingError."""
        del given
        return cls()

    @abstractmethod
    def observe(self, record: LossRecord) -> None:
        """Learn from one loss record; its losses are finite."""

    @abstractmethod
    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """π of each candidate, shape ``(k,)``; what lies outside of [γ, 1] is brought into it."""

    def observe_fresh(self, ids: I64, losses: F32) -> None:
        """Losses of instances that were soon to be offered, under the Boss's weights of some hundred steps ago; finite,
        shape ``(k,)`` both. They may come late: some have been offered, and trained, by now. Not in deterministic mode,
        and lost with a restart: ``state_dict`` leaves them out."""
        del ids, losses

    def utility(self, ids: I64, losses: F32) -> F32:
        """What the policy means to keep much of, from losses just reported; the gate judges by it. Shape ``(k,)``."""
        del ids
        return losses

    def state_dict(self) -> State:
        """All that ``observe`` has changed, as plain arrays by name."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``; raises KeyError or ValueError for the state of something else."""
        del state

    @property
    def version(self) -> int:
        """Updates of the learned part so far."""
        return 0

    @property
    def lift(self) -> tuple[float, float]:
        """Lift of what the policy would keep, and its standard error; (0, 0) where it estimates none."""
        return 0.0, 0.0

    @property
    def figures(self) -> Mapping[str, float]:
        """What is worth a line under this Assistant in the report."""
        return {}

    @property
    def set_aside(self) -> I64:
        """IDs that are left out because their labels seem wrong, the most certain first."""
        return empty_i64()
