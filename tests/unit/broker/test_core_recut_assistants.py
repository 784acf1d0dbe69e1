"""A run goes on with another number of ranks: Assistants hear the whole loss log, and what they select still counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from broker.effects import Effect, Event, HelloReceived, MessageReceived, Send, SendRecords
from protocol.messages import Credit, Hello, RecordsDropped, Selection, Window
from tests.unit.broker.test_core_recut import EPOCHS, N, Ranks, interrupted, resumed
from tests.unit.broker.world import World

NAME = "assistant-0"
STEP = 30


@dataclass
class RanksAndAssistant(Ranks):
    """With one Assistant, which keeps half of each window once it has learned what it is told to."""

    windows: list[Window] = field(default_factory=list)

    def assistant_joins(self) -> list[Effect]:
        """With nothing that it has learned."""
        hello = Hello(role="assistant", name=NAME, incarnation="new/a", dataset_id="data:1", n=N, slots=2)
        return self.handle(HelloReceived(hello, fresh=True))

    def handle(self, event: Event) -> list[Effect]:
        """See Ranks; windows are answered in order."""
        effects = super().handle(event)
        self.windows += [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Window)]
        while self.windows and self.windows[0].learn_through < self.core.state.the_run.log_step:
            window = self.windows.pop(0)
            kept = window.ids[::2]
            selection = Selection(
                window=window.window,
                attempt=window.attempt,
                kept_ids=kept,
                keep_probabilities=np.full(len(kept), 0.5, np.float32),
                learned_through=window.learn_through,
                version=1,
                lift=1.0,
                lift_error=0.01,
            )
            effects += self.handle(MessageReceived(NAME, selection))
        return effects


def with_assistant(world: World, ranks: int) -> RanksAndAssistant:
    found = resumed(world, ranks, STEP)
    both = RanksAndAssistant(found.core, found.settings, found.step)
    both.join()
    return both


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (4, 2)])
def test_an_assistant_hears_all_of_the_log_that_another_number_of_ranks_has_written(
    before: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent no more than some steps beyond what it has learned, counted in the records that those steps have."""
    monkeypatch.setattr("broker.state.MAX_STEPS_AHEAD", 10)
    both = with_assistant(interrupted(before, STEP // before, batch_size=5), after)
    both.step = STEP // before
    effects, heard = both.assistant_joins(), 0
    for _ in range(100):
        heard = max([heard, *(e.stop for e in effects if isinstance(e, SendRecords) and e.name == NAME)])
        effects = both.handle(MessageReceived(NAME, Credit(limit=1 << 20, learned_through=heard // before - 1)))
    assert heard == both.core.state.the_run.log_records > 0


def test_records_from_before_the_ranks_changed_are_dropped_without_a_word_on_what_came_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("broker.routing.REPLAY_RECORDS", 10)
    both = with_assistant(interrupted(2, STEP), 1)
    (dropped,) = [
        e.message for e in both.assistant_joins() if isinstance(e, Send) and isinstance(e.message, RecordsDropped)
    ]
    assert dropped.through_position == 2 * (STEP + 1) - 10
    assert dropped.learned_through < dropped.through_position // 2, (
        "the last records before the change are still to come"
    )


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_in_deterministic_mode_too_a_run_goes_on_with_another_number_of_ranks_and_selects(
    before: int, after: int
) -> None:
    both = with_assistant(interrupted(before, STEP, deterministic=True), after)
    both.assistant_joins()
    both.handle(MessageReceived(NAME, Credit(limit=1 << 20, learned_through=-1)))
    both.finish()
    run = both.core.state.the_run
    assert sum(e.offered for e in both.core.state.epochs.values()) == EPOCHS * N
    assert not run.counters.get("reopened_windows")
    selected = [s for b in both.batches for s in b.segments if s.learned_through is not None]
    assert len(selected) > 10
