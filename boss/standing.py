"""Where a feed's run stands: what may be read of it at any time."""

from __future__ import annotations

from boss.line import BossLine
from boss.plan import BossPlan
from boss.reporter import HOPELESS_STEPS, Reporter


class Standing:
    """Of a Feed."""

    _plan: BossPlan
    _line: BossLine
    _reporter: Reporter
    _instances: int

    @property
    def progress(self) -> float:
        """Fraction of the budget once the batch at hand is done, 0 … 1; drive schedules with it."""
        return self._plan.pulled[0].progress if self._plan.pulled else self._plan.progress

    @property
    def ended(self) -> str:
        """ "" while the run goes on, else "finished", "stopped" or "failed"."""
        return self._plan.ended

    @property
    def epoch(self) -> int:
        """Last epoch that has ended."""
        return max(0, self._plan.epochs_done)

    @property
    def instances(self) -> int:
        """Instances trained, by all ranks."""
        return self._instances

    @property
    def is_connected(self) -> bool:
        """Whether the broker answers."""
        return self._line.is_open

    @property
    def steps(self) -> int:
        """Steps reported so far."""
        return self._plan.last_reported + 1

    @property
    def has_diverged(self) -> bool:
        """Whether the latest steps had no finite loss at all, as far as their losses have come from the device."""
        return self._reporter.steps_without_a_finite_loss >= HOPELESS_STEPS
