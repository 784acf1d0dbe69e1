"""What an Assistant does next: score, or learn."""

from __future__ import annotations

import numpy as np

from assistant.core import CREDIT_RECORDS, AssistantCore
from assistant.policies import Moment, Policy, Uniform
from protocol.arrays import F32, I64
from protocol.messages import Credit, LossRecord, RecordsDropped, Selection, Window
from protocol.settings import RunSettings


class Noting(Policy):
    """Keeps everything and notes what it observes."""

    def __init__(self) -> None:
        self.observed: list[LossRecord] = []

    def observe(self, record: LossRecord) -> None:
        self.observed.append(record)

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        return np.ones(len(ids), dtype=np.float32)


def make(policy: Policy | None = None, **settings: object) -> AssistantCore:
    return AssistantCore(RunSettings(**settings), policy or Noting())  # type: ignore[arg-type]


def window(number: int, learn_through: int = -2, attempt: int = 1) -> Window:
    ids = np.arange(8, dtype=np.int64)
    return Window(window=number, attempt=attempt, epoch=1, progress=0.5, ids=ids, learn_through=learn_through)


def loss_record(position: int, losses: tuple[float, ...] = (0.5, 0.7)) -> LossRecord:
    return LossRecord(
        position=position,
        step=position,
        rank=0,
        learned_through=position,
        epoch=0,
        ids=np.arange(len(losses), dtype=np.int64),
        losses=np.array(losses, dtype=np.float32),
        keep_probabilities=np.ones(len(losses), dtype=np.float32),
    )


def test_scoring_comes_before_learning() -> None:
    core = make()
    core.receive(loss_record(0))
    core.receive(window(3))
    (selection,) = core.work()
    assert isinstance(selection, Selection) and selection.window == 3
    assert selection.learned_through == -1
    core.work()
    assert core.learned_through == 0


def test_an_assistant_that_lags_by_half_the_bound_learns_first() -> None:
    core = make(staleness_bound=20)
    for position in range(12):
        core.receive(loss_record(position))
    core.receive(window(0))
    said = [m for _ in range(4) for m in core.work()]
    (selection,) = [m for m in said if isinstance(m, Selection)]
    assert said.index(selection) == len(said) - 1
    assert 11 - selection.learned_through <= 10


def test_deterministic_mode_learns_exactly_what_the_window_orders() -> None:
    policy = Noting()
    core = make(policy, deterministic=True)
    for position in range(10):
        core.receive(loss_record(position))
    assert not core.has_work()
    core.receive(window(0, learn_through=4))
    said = [m for _ in range(6) for m in core.work()]
    (selection,) = [m for m in said if isinstance(m, Selection)]
    assert selection.learned_through == 4
    assert [r.step for r in policy.observed] == [0, 1, 2, 3, 4]
    assert not core.has_work()


def test_deterministic_mode_waits_for_reports_that_have_not_come() -> None:
    core = make(deterministic=True)
    core.receive(window(0, learn_through=1))
    core.receive(loss_record(0))
    core.work()
    assert not core.has_work() and core.work() == []
    core.receive(loss_record(1))
    said = [m for _ in range(2) for m in core.work()]
    assert any(isinstance(m, Selection) for m in said)


def test_a_repeated_window_is_scored_once_and_a_new_attempt_again() -> None:
    core = make()
    core.receive(window(0))
    core.receive(window(0))
    core.receive(window(0, attempt=2))
    said = [m for _ in range(3) for m in core.work()]
    assert [m.attempt for m in said if isinstance(m, Selection)] == [1, 2]


def test_a_repeated_record_is_learned_once() -> None:
    policy = Noting()
    core = make(policy)
    for position in (0, 1, 0, 1, 2):
        core.receive(loss_record(position))
    while core.has_work():
        core.work()
    assert [r.position for r in policy.observed] == [0, 1, 2]


def test_losses_that_are_not_finite_are_never_learned_from() -> None:
    policy = Noting()
    core = make(policy)
    core.receive(loss_record(0, (float("nan"), 1.0, float("inf"))))
    core.receive(loss_record(1, (float("nan"),)))
    while core.has_work():
        core.work()
    (seen,) = policy.observed
    assert seen.ids.tolist() == [1] and seen.losses.tolist() == [1.0]
    assert core.learned_through == 1


def test_declared_drops_move_what_is_learned_through() -> None:
    core = make()
    core.receive(loss_record(0))
    core.receive(RecordsDropped(through_position=50, learned_through=49))
    core.receive(loss_record(10))
    core.receive(loss_record(50))
    while core.has_work():
        core.work()
    assert (core.learned_through, core.position, core.applied) == (50, 51, 51)


def test_credit_goes_with_what_is_applied_and_not_with_what_has_come() -> None:
    core = make()
    (first,) = core.grant()
    assert isinstance(first, Credit) and first.limit == CREDIT_RECORDS
    for position in range(40):
        core.receive(loss_record(position))
    credits = [m for _ in range(40) for m in core.work() if isinstance(m, Credit)]
    assert [c.limit for c in credits] == [CREDIT_RECORDS + 16, CREDIT_RECORDS + 32, CREDIT_RECORDS + 40]
    assert credits[-1].learned_through == 39


def test_with_many_ranks_the_records_of_two_steps_may_wait_and_the_credit_is_said_no_more_often() -> None:
    """With less than a step's it would be out of credit all the time, and learn too late to select anything."""
    core = make(world_size=1024)
    assert [c.limit for c in core.grant() if isinstance(c, Credit)] == [2048]
    for position in range(2 * 64 + 1):
        core.receive(loss_record(position))
    said = [core.work() for _ in range(2 * 64)]
    assert [i + 1 for i, messages in enumerate(said) if messages] == [64, 128]


def test_a_selection_names_the_kept_in_the_order_of_the_window() -> None:
    core = make(Uniform())
    core.receive(window(5))
    (selection,) = core.work()
    assert isinstance(selection, Selection)
    assert selection.kept_ids.tolist() == list(range(8))
    assert (selection.keep_probabilities == 1.0).all()
