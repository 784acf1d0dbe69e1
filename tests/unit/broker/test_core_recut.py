"""A run goes on from a checkpoint with another number of Boss ranks: no hole and no double in any epoch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest

from broker.core import BrokerCore
from broker.effects import AppendBatch, AppendLoss, Effect, Event, HelloReceived, MessageReceived, Refuse, Send
from broker.rows import decode_row
from broker.stock import reopen_if_stale
from protocol.messages import Batch, Credit, EpochEnd, Hello, LossRecord, LossReport
from protocol.settings import RunSettings
from protocol.token_batches import I32
from tests.unit.broker.world import World, joined, train_through

N = 100
EPOCHS = 8
RUN = {"epochs": EPOCHS, "batch_size": 5, "window_size": 20, "prefetch_batches": 4, "seed": 7}
Key = tuple[int, int]


@dataclass
class Ranks:
    """All ranks of a resumed Boss: they train whatever comes, and report it."""

    core: BrokerCore
    settings: RunSettings
    step: int
    batches: list[Batch] = field(default_factory=list)
    ends: list[EpochEnd] = field(default_factory=list)
    records: list[LossRecord] = field(default_factory=list)
    logged: list[Batch] = field(default_factory=list)
    now: float = 1000.0

    def join(self) -> list[Effect]:
        """Rank 0 asks for the checkpoint, which the store has loaded; the others follow."""
        effects: list[Effect] = []
        for rank in range(self.settings.world_size):
            hello = Hello(
                role="boss",
                name=f"boss-{rank}",
                incarnation=f"new/{rank}",
                dataset_id="data:1",
                n=N,
                settings=self.settings,
                rank=rank,
                restore_step=self.step if rank == 0 else -2,
                lengths=self.core.state.the_run.lengths_id,
            )
            effects += self.handle(HelloReceived(hello, fresh=True, restored=rank == 0))
        return effects

    def handle(self, event: Event) -> list[Effect]:
        """Keep what comes of an event."""
        self.now += 1.0
        effects = self.core.handle(event, self.now)
        for effect in effects:
            match effect:
                case Send("boss-0", Batch() as batch) if batch.step not in {b.step for b in self.batches}:
                    self.batches.append(batch)
                case Send("boss-0", EpochEnd() as end) if end.epoch not in {e.epoch for e in self.ends}:
                    self.ends.append(end)
                case AppendLoss(record):
                    self.records.append(record)
                case AppendBatch(batch):
                    self.logged.append(batch)
        return effects

    def finish(self) -> None:
        """Train to the run's end."""
        told = 0
        for _ in range(500):
            if self.ends and self.ends[-1].last and told == len(self.batches):
                return
            pulled = self.batches[told - 1].step if told else self.step
            self.handle(MessageReceived("boss-0", Credit(limit=pulled + 4, yielded=pulled)))
            for batch in self.batches[told:]:
                for rank in range(self.settings.world_size):
                    losses = np.ones(batch.rank_counts[rank], np.float32)
                    report = LossReport(step=batch.step, through=batch.step, rank=rank, losses=losses)
                    self.handle(MessageReceived(f"boss-{rank}", report))
                told += 1
        raise AssertionError("the run does not come to its end")


def trained(batches: list[Batch]) -> dict[Key, float]:
    """π of each (epoch, ID); fails where one is there twice."""
    found: dict[Key, float] = {}
    for batch in batches:
        start = 0
        for segment in batch.segments:
            for place in range(start, start + segment.count):
                key = (segment.epoch, int(batch.ids[place]))
                assert key not in found, f"{key} is trained twice"
                found[key] = float(batch.keep_probabilities[place])
            start += segment.count
    return found


def kept_of_all_windows(world: World) -> set[Key]:
    """Of windows decided before the checkpoint what was selected, of all later ones everything."""
    kept: set[Key] = set()
    for window in range(EPOCHS * world.audit.windows_per_epoch):
        selection = world.audit.selected.get(window)
        ids = world.audit.window_ids(window) if selection is None else selection.kept_ids
        kept |= {(window // world.audit.windows_per_epoch, int(i)) for i in ids}
    return kept


def interrupted(world_size: int, step: int, *, lengths: I32 | None = None, **changes: object) -> World:
    """A filtered run whose ranks have all reported ``step``, with later steps cut and some of them half reported."""
    world = joined(N, world_size=world_size, lengths=lengths, **{**RUN, **changes})
    for through in range(step + 1):
        world.serve(world.assistants[0])
        train_through(world, through)
    world.serve(world.assistants[0])
    world.grant()
    if world_size > 1:
        world.pull()
        world.report(1, np.ones(world.boss.pulled[step + 1].rank_counts[1]))
    return world


def resumed(world: World, world_size: int, step: int) -> Ranks:
    """A core from the rows of the checkpoint, and the new ranks; nobody has joined yet."""
    core = BrokerCore.from_rows("run-1", [(kind, decode_row(kind, raw)) for (kind, _), raw in world.rows.items()])
    core.state.lengths = world.lengths
    core.take_back(world.core, "new/0")
    return Ranks(core, replace(world.settings, world_size=world_size), step)


@pytest.mark.parametrize("step", [0, 3, 9, 14])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 4), (3, 3), (4, 2)])
def test_another_number_of_ranks_leaves_no_hole_and_no_double(before: int, after: int, step: int) -> None:
    world = interrupted(before, step)
    cut_before = [b for b in world.audit.batches if b.step > step]
    ranks = resumed(world, after, step)
    ranks.join()
    assert [b.step for b in ranks.batches] == [] or ranks.batches[0].step == step + 1
    ranks.finish()
    found = trained([*world.finished, *ranks.batches])
    assert found.keys() == kept_of_all_windows(world), "nothing is lost, nothing comes that was shrunk"
    expected = trained(cut_before)
    assert expected.items() <= found.items(), "what had been cut is trained, with the same π"
    assert Counter(e.epoch for e in ranks.ends) == dict.fromkeys(range(min(x.epoch for x in ranks.ends), EPOCHS), 1)
    assert [b.step for b in ranks.logged] == [b.step for b in ranks.batches]
    assert all(len(b.rank_counts) == after for b in ranks.batches)
    run = ranks.core.state.the_run
    assert run.instances_cut == run.instances_trained == len(found)
    assert sum(e.kept for e in ranks.core.state.epochs.values()) == len(found)
    assert sum(e.offered for e in ranks.core.state.epochs.values()) == EPOCHS * N


@pytest.mark.parametrize(("before", "after", "step"), [(2, 1, 3), (2, 3, 3), (1, 3, 9), (3, 3, 0), (4, 1, 1)])
def test_by_tokens_too_another_number_of_ranks_leaves_no_hole_and_no_double(before: int, after: int, step: int) -> None:
    """Half a pool is cut and trained, some of it is cut and not, and all of it has other steps from now on."""
    lengths = np.random.default_rng(0).integers(1, 12, N).astype(np.int32)
    world = interrupted(before, step, lengths=lengths, max_tokens=30, pool_steps=3)
    cut_before = [b for b in world.audit.batches if b.step > step]
    ranks = resumed(world, after, step)
    ranks.join()
    ranks.finish()
    found = trained([*world.finished, *ranks.batches])
    assert found.keys() == kept_of_all_windows(world)
    assert trained(cut_before).items() <= found.items(), "what had been cut is trained, with the same π"
    for batch in ranks.batches:
        starts = np.cumsum([0, *batch.rank_counts])
        parts = [lengths[batch.ids[a:b]] for a, b in pairwise(starts.tolist())]
        assert len(parts) == after and all(len(p) * p.max() <= 30 for p in parts)


@pytest.mark.parametrize("changes", [{}, {"max_tokens": 30, "pool_steps": 1}])
def test_a_window_that_is_cut_anew_and_has_become_too_stale_passes_what_was_not_trained_and_no_more(
    changes: dict[str, int],
) -> None:
    """Four ranks become one: the same instances take four times as many steps, and selections age on the way."""
    lengths = np.full(N, 6, np.int32) if changes else None
    world = interrupted(4, 2, lengths=lengths, staleness_bound=14, stock_batches=1, prefetch_batches=6, **changes)
    for _ in range(4):
        world.serve(world.assistants[0])
    ranks = resumed(world, 1, 2)
    ranks.join()
    ranks.finish()
    assert ranks.core.state.the_run.counters["reopened_windows"] > 0
    found = trained([*world.finished, *ranks.batches])
    assert kept_of_all_windows(world) <= found.keys()


def test_what_was_trained_of_a_window_before_it_was_cut_anew_does_not_come_again_with_what_it_had_shrunk() -> None:
    """Some of it is in the log, the rest waits again, and grows too stale before its turn."""
    world = interrupted(2, 5, lengths=np.full(N, 6, np.int32), max_tokens=30, pool_steps=3)
    ranks = resumed(world, 1, 5)
    ranks.join()
    state, before = ranks.core.state, trained(world.finished)
    partly = 0
    for row in [r for r in state.windows.values() if r.state == "stocked" and r.learned_through is not None]:
        gone = {i for i in world.audit.window_ids(row.window).tolist() if (state.epoch_of(row.window), i) in before}
        reopen_if_stale(state, row, step=10**6)
        assert row.learned_through is None and gone.isdisjoint(row.kept_ids[row.taken :].tolist())
        partly += bool(gone)
    assert partly


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2), (2, 2), (3, 2)])
def test_steps_off_the_plan_that_wait_for_the_log_are_kept_with_their_losses(before: int, after: int) -> None:
    """An outage while batches were cut and had not come: the steps drawn meanwhile have numbers behind theirs."""
    step = 5
    world = joined(N, world_size=before, **RUN)
    for through in range(step):
        world.serve(world.assistants[0])
        train_through(world, through)
    world.serve(world.assistants[0])
    world.grant()
    world.train_off_plan(2)
    assert world.pull()
    for peer in world.boss.ranks:
        world.report(peer.rank, np.ones(world.boss.pulled[step].rank_counts[peer.rank]))
    assert world.core.state.stands_at(step) and len(world.core.state.off_plan) == 2
    ranks = resumed(world, after, step)
    ranks.join()
    ranks.finish()
    logged = [b for b in ranks.logged if b.kind == "off_plan"]
    assert [b.off_plan_before for b in logged] == [0, 1]
    for batch in logged:
        records = [r for r in ranks.records if r.step == batch.step]
        assert np.concatenate([r.ids for r in records]).tolist() == batch.ids.tolist()
        assert {int(loss) for r in records for loss in r.losses} == {batch.off_plan_before}
    found = trained([*world.finished, *ranks.batches])
    assert found.keys() == kept_of_all_windows(world)
    run = ranks.core.state.the_run
    assert [b.step for b in ranks.logged] == list(range(step + 1, run.next_step)) and run.log_step == run.next_step
    assert run.instances_trained == len(found) + sum(len(b.ids) for b in logged)
    assert not ranks.core.state.off_plan


def test_the_loss_log_goes_on_where_it_stood_with_the_new_ranks() -> None:
    world = interrupted(2, 5)
    ranks = resumed(world, 3, 5)
    ranks.join()
    ranks.finish()
    assert [r.position for r in ranks.records] == list(range(12, 12 + len(ranks.records)))
    assert [(r.step, r.rank) for r in ranks.records[:4]] == [(6, 0), (6, 1), (6, 2), (7, 0)]


def test_a_rank_that_was_ahead_reports_again_what_is_not_in_the_checkpoint() -> None:
    """Its losses belong to weights that no longer exist."""
    ranks = resumed(interrupted(2, 5), 2, 5)
    ranks.join()
    step = ranks.core.state.steps[6]
    assert step.reported == [] and step.losses == {}


def test_other_settings_than_the_number_of_ranks_still_have_to_agree() -> None:
    ranks = resumed(interrupted(2, 5), 3, 5)
    ranks.settings = replace(ranks.settings, batch_size=6)
    (refusal,) = [e for e in ranks.join() if isinstance(e, Refuse)][:1]
    assert refusal.code == "settings" and "batch_size" in refusal.reason


def test_ranks_that_make_a_step_larger_than_the_data_set_are_refused() -> None:
    ranks = resumed(interrupted(2, 5), 30, 5)
    refusal = next(e for e in ranks.join() if isinstance(e, Refuse))
    assert refusal.code == "settings" and "world_size=30" in refusal.reason and "100 instances" in refusal.reason


def test_without_a_checkpoint_the_number_of_ranks_is_the_run_s() -> None:
    world = interrupted(2, 5)
    settings = replace(world.settings, world_size=3)
    effects = world.hello(world.boss.ranks[1], settings=settings)
    assert [e.code for e in effects if isinstance(e, Refuse)] == ["settings"]
