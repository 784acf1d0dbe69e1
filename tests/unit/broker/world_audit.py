"""What must hold of a run whatever happens to it, checked from the committed rows and the messages alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from broker.core import BrokerCore
from broker.effects import Event, HelloReceived, MessageReceived
from broker.rows import EpochRow, PeerRow, Row, StepRow, WindowRow, decode_row, encode_row
from protocol.messages import AnyMessage, Batch, EpochEnd, LossRecord, LossReport, OffPlanReport, Return, Segment
from protocol.off_plan import draw_off_plan
from protocol.order import EpochOrder
from protocol.settings import RunSettings
from protocol.token_batches import I32


class Audit:
    """Sees each committed event once, in order, and raises AssertionError where a guarantee is broken."""

    def __init__(self, settings: RunSettings, n: int, lengths: I32 | None = None) -> None:
        self.settings, self.n, self.lengths = settings, n, lengths
        self.batches: list[Batch] = []
        self.trained: dict[int, set[int]] = {}
        """IDs cut so far, by the epoch that offered them."""
        self.trained_of: dict[int, list[int]] = {}
        """IDs cut so far, by window."""
        self.selected: dict[int, WindowRow] = {}
        """Windows with an accepted selection that keeps something."""
        self.unfiltered: set[int] = set()
        """Windows that passed whole at some time."""
        self.given_back: set[int] = set()
        """Windows of which something was given back untrained: what was kept of them passes, and no more."""
        self.ended: dict[int, int] = {}
        """Step after which each epoch ended."""
        self.first_reports: dict[tuple[int, int], Any] = {}
        self.resumed: set[str] = set()
        """Incarnations of the Boss that went on from a checkpoint."""
        self.on_stream: dict[str, set[tuple[str, int]]] = {}
        self.last_told: dict[str, int] = {}
        self._orders: dict[int, np.ndarray] = {}

    # An independent reading of the order

    @property
    def windows_per_epoch(self) -> int:
        return -(-self.n // self.settings.window_instances)

    def window_ids(self, window: int) -> np.ndarray:
        epoch, place = divmod(window, self.windows_per_epoch)
        if epoch not in self._orders:
            self._orders[epoch] = EpochOrder(self.n, self.settings.seed, epoch).ids(0, self.n)
            assert sorted(self._orders[epoch]) == list(range(self.n))
        size = self.settings.window_instances
        return self._orders[epoch][place * size : (place + 1) * size]

    # Committed events

    def decided(self, event: Event, rows: list[tuple[str, Row]]) -> None:
        """An event and the rows that it has changed."""
        message = event.message if isinstance(event, MessageReceived) else None
        if isinstance(event, MessageReceived) and isinstance(message, LossReport):
            self._reported(event.name, message)
        if isinstance(event, HelloReceived) and event.restored:
            self._taken_back(event.hello.incarnation, rows)
        before = len(self.batches)
        steps = [row.batch for _, row in rows if isinstance(row, StepRow)]
        for batch in steps:
            if batch.kind == "returned" and self.batches[batch.step].kind == "plan":
                assert isinstance(message, Return) and batch.step in message.steps
                self._given_back(batch)
        for _, row in rows:
            match row:
                case WindowRow(state="stocked"):
                    self._stocked(row)
                case EpochRow():
                    self._epoch(row, is_return=isinstance(message, Return))
        for batch in steps:
            if batch.step < before:
                assert _same(batch, self.batches[batch.step]), "a batch has changed"
            elif batch.step == len(self.batches):
                self._cut(batch) if batch.kind == "plan" else self._off_plan(batch, message)
        if isinstance(event, MessageReceived) and isinstance(message, OffPlanReport):
            self._reported_off_plan(event.name, message)

    def _taken_back(self, incarnation: str, rows: list[tuple[str, Row]]) -> None:
        """All ranks go on from a checkpoint: of a step that was not complete then, nothing is reported.

        A process that was admitted before only comes back.
        """
        admitted = any(isinstance(row, PeerRow) and row.incarnation == incarnation for _, row in rows)
        if not admitted or incarnation in self.resumed:
            return
        self.resumed.add(incarnation)
        ranks = range(self.settings.world_size)
        for batch in self.batches:
            if batch.kind == "off_plan":  # it was trained, and nobody is left to say more of it
                for rank in ranks:
                    self.first_reports.setdefault((batch.step, rank), np.zeros(0, np.float32))
        complete = [s for s in range(len(self.batches)) if all((s, r) in self.first_reports for r in ranks)]
        self.first_reports = {key: said for key, said in self.first_reports.items() if key[0] in complete}

    def _epoch(self, row: EpochRow, *, is_return: bool) -> None:
        """An epoch ends once; only what is given back at the run's end may open the last one again."""
        if row.epoch in self.ended and is_return:
            after_step = self.ended.pop(row.epoch)
            for told in self.on_stream.values():
                told.discard((f"epoch_end after {after_step}", row.epoch))
        if row.ended:
            assert self.ended.setdefault(row.epoch, row.after_step) == row.after_step, "an epoch ended twice"
        assert row.ended or row.epoch not in self.ended, "an end was taken back"

    def _stocked(self, row: WindowRow) -> None:
        if row.learned_through is None:
            if row.window not in self.given_back:
                self.unfiltered.add(row.window)
            assert (row.keep_probabilities == 1.0).all()
            return
        assert row.window not in self.unfiltered | self.given_back, "a window that had passed whole was filtered"
        first = self.selected.setdefault(row.window, row)
        assert self._selection_of(first) == self._selection_of(row), "an accepted selection has changed"
        assert first.learned_through == row.learned_through

    def _selection_of(self, row: WindowRow) -> list[tuple[int, float]]:
        """What was selected; by tokens what is cut comes first, whatever its place in the window."""
        found = list(zip(row.kept_ids.tolist(), row.keep_probabilities.tolist(), strict=True))
        return found if self.lengths is None else sorted(found)

    def _cut(self, batch: Batch) -> None:
        settings, step = self.settings, len(self.batches)
        self.batches.append(batch)
        count = sum(s.count for s in batch.segments)
        assert count > 0
        assert all(s.count > 0 for s in batch.segments)
        assert batch.padding == max(0, settings.world_size - count), "padding only where ranks would go without"
        assert len(batch.ids) == len(batch.keep_probabilities) == count + batch.padding == sum(batch.rank_counts)
        assert len(batch.rank_counts) == settings.world_size
        assert min(batch.rank_counts) > 0
        if self.lengths is None:
            assert count <= settings.step_instances
            assert max(batch.rank_counts) - min(batch.rank_counts) <= 1
        else:
            self._within_the_budget(batch)
        assert set(batch.ids[count:].tolist()) <= set(batch.ids[:count].tolist())
        assert ((batch.keep_probabilities > 0) & (batch.keep_probabilities <= 1)).all()
        assert 0.0 <= batch.progress <= 1.0
        epochs = [s.epoch for s in batch.segments]
        in_order = self.lengths is not None or epochs == sorted(epochs)
        assert max(epochs) <= batch.epoch and (self.given_back or in_order)
        assert self.lengths is None or self.given_back or min(epochs) == batch.epoch, "a step spans two epochs"
        assert batch.epoch not in self.ended or self.ended[batch.epoch] >= step, "a step after its epoch's end"
        start = 0
        for segment in batch.segments:
            place = slice(start, start + segment.count)
            self._segment(step, segment, batch.ids[place], batch.keep_probabilities[place])
            start += segment.count

    def _within_the_budget(self, batch: Batch) -> None:
        """Each rank's batch, padded to its longest, keeps to the budget."""
        assert self.lengths is not None and self.settings.max_tokens is not None
        start = 0
        for count in batch.rank_counts:
            assert count * self.lengths[batch.ids[start : start + count]].max() <= self.settings.max_tokens
            start += count

    def _off_plan(self, batch: Batch, message: AnyMessage | None) -> None:
        """Steps of the Boss's own take the next numbers, and belong to no epoch's offering."""
        assert batch.kind == "off_plan" and isinstance(message, OffPlanReport) and batch.segments == []
        number = sum(b.kind == "off_plan" for b in self.batches)
        if self.lengths is not None:
            self._within_the_budget(batch)
        assert batch.off_plan_before == number and message.number <= number <= message.through
        ids, counts = draw_off_plan(self.settings, self.n, number, self.lengths)
        assert np.array_equal(batch.ids, ids) and batch.rank_counts == counts
        self.batches.append(batch)

    def _reported_off_plan(self, name: str, report: OffPlanReport) -> None:
        """The first that a rank says of an off-plan step counts."""
        rank = int(name.rpartition("-")[2])
        steps = [b for b in self.batches if b.kind == "off_plan"]
        for batch in steps[report.number : report.through + 1]:
            values = report.losses if len(report.losses) == batch.rank_counts[rank] else report.losses[:0]
            self.first_reports.setdefault((batch.step, rank), values)

    def _given_back(self, empty: Batch) -> None:
        """A batch that was never trained: its instances wait again, and its number stays unused."""
        assert len(empty.ids) == 0 and (empty.step, 0) not in self.first_reports
        batch, start = self.batches[empty.step], 0
        self.batches[empty.step] = empty
        for rank in range(self.settings.world_size):
            self.first_reports[empty.step, rank] = empty.keep_probabilities
        for segment in batch.segments:
            ids = batch.ids[start : start + segment.count].tolist()
            start += segment.count
            self.trained[segment.epoch].difference_update(ids)
            self.trained_of[segment.window] = [i for i in self.trained_of[segment.window] if i not in ids]
            self.given_back.add(segment.window)

    def _segment(self, step: int, segment: Segment, ids: np.ndarray, keep: np.ndarray) -> None:
        assert segment.epoch == segment.window // self.windows_per_epoch
        assert np.isin(ids, self.window_ids(segment.window)).all()
        trained = self.trained.setdefault(segment.epoch, set())
        assert len(set(ids.tolist())) == len(ids) and trained.isdisjoint(ids.tolist()), "trained twice in one epoch"
        trained.update(ids.tolist())
        self.trained_of.setdefault(segment.window, []).extend(ids.tolist())
        if segment.learned_through is None:
            assert segment.assistant == "" and (keep == 1.0).all()
            if segment.window not in self.given_back:
                self.unfiltered.add(segment.window)
            return
        assert 0 < step - segment.learned_through <= self.settings.staleness_bound, "staler than the bound"
        row = self.selected.get(segment.window)
        if row is not None:
            told = dict(zip(row.kept_ids.tolist(), row.keep_probabilities.tolist(), strict=True))
            assert [told[i] for i in ids.tolist()] == keep.tolist()
            assert segment.assistant == row.assistant and segment.version == row.version

    def _reported(self, name: str, report: LossReport) -> None:
        is_own = name == f"boss-{report.rank}" and 0 <= report.step <= report.through < len(self.batches)
        if not is_own or (len(report.losses) and report.through != report.step):
            return
        for step in range(report.step, report.through + 1):
            expected = self.batches[step].rank_counts[report.rank]
            values = report.losses if len(report.losses) == expected else report.losses[:0]
            self.first_reports.setdefault((step, report.rank), values)

    def logged(self, record: LossRecord) -> None:
        """A loss record was appended to the log."""
        world_size = self.settings.world_size
        assert (record.step, record.rank) == divmod(record.position, world_size), "the log has a hole or a repetition"
        assert record.learned_through == (record.step if record.rank == world_size - 1 else record.step - 1)
        batch = self.batches[record.step]
        if batch.kind == "returned":
            assert len(record.ids) == len(record.losses) == 0
            return
        start = sum(batch.rank_counts[: record.rank])
        stop = min(start + batch.rank_counts[record.rank], len(batch.ids) - batch.padding)
        place, said = slice(start, max(start, stop)), self.first_reports[record.step, record.rank]
        if len(said) == 0:
            assert len(record.ids) == len(record.losses) == len(record.keep_probabilities) == 0
            return
        assert np.array_equal(record.ids, batch.ids[place])
        assert np.array_equal(record.keep_probabilities, batch.keep_probabilities[place])
        assert np.array_equal(record.losses, said[: len(record.ids)], equal_nan=True)

    def finished(self, batch: Batch) -> None:
        """A batch that all ranks have reported was appended to the log."""
        assert _same(batch, self.batches[batch.step])
        for rank in range(self.settings.world_size):
            assert (batch.step, rank) in self.first_reports

    # Messages

    def joins(self, name: str) -> None:
        """A role begins a new stream."""
        self.on_stream[name] = set()
        self.last_told.pop(name, None)

    def told(self, name: str, message: AnyMessage) -> None:
        """A message is delivered to a role."""
        if isinstance(message, Batch):
            assert _same(message, self.batches[message.step]), "a batch is told otherwise than it was cut"
            self._once(name, ("batch", message.step))
            between = self.batches[self.last_told.get(name, message.step) + 1 : message.step]
            assert not any(b.kind == "plan" for b in between), "a hole in the Boss's stream"
            self.last_told[name] = message.step
        elif isinstance(message, EpochEnd):
            assert message.after_step == self.ended[message.epoch]
            self._once(name, (f"epoch_end after {message.after_step}", message.epoch))

    def _once(self, name: str, what: tuple[str, int]) -> None:
        assert what not in self.on_stream[name], f"{what} is told twice on one stream"
        self.on_stream[name].add(what)

    # The whole

    def same_as_rebuilt(self, core: BrokerCore, rows: dict[tuple[str, str], bytes]) -> None:
        """A broker that restarts from the rows has the state of the one that lives."""
        state = core.state
        live: dict[tuple[str, str], Row] = {} if state.run is None else {("run", "run"): state.run}
        live |= {("window", str(k)): v for k, v in state.windows.items()}
        live |= {("step", str(k)): v for k, v in state.steps.items()}
        live |= {("reports", row.key): row for reports in state.reports.values() for row in reports.rows}
        live |= {("peer", k): v for k, v in state.peers.items()}
        live |= {("epoch", str(k)): v for k, v in state.epochs.items()}
        stored = {key: canonical(key[0], raw) for key, raw in rows.items()}
        lives = {key: canonical(key[0], encode_row(row)) for key, row in live.items()}
        different = [key for key in lives.keys() | stored.keys() if lives.get(key) != stored.get(key)]
        assert not different, f"stored otherwise than they live: {different}"
        if not rows:
            return
        rebuilt = BrokerCore.from_rows("", [(kind, decode_row(kind, raw)) for (kind, _), raw in reversed(rows.items())])
        assert rebuilt.run_id == core.run_id
        assert _reported(rebuilt) == _reported(core)
        assert list(rebuilt.state.line) == list(state.line)
        assert {k: v for k, v in rebuilt.state.ahead.items() if v} == {k: v for k, v in state.ahead.items() if v}
        self._stock_is_untrained(core)

    def _stock_is_untrained(self, core: BrokerCore) -> None:
        for row in core.state.windows.values():
            if row.state == "stocked":
                epoch = row.window // self.windows_per_epoch
                waiting = row.kept_ids[row.taken :].tolist()
                assert waiting and self.trained.get(epoch, set()).isdisjoint(waiting)
            else:
                assert row.window not in self.trained_of
        stocked = {w for w, row in core.state.windows.items() if row.state == "stocked"}
        line = [*core.state.line, *(w for windows in core.state.ahead.values() for w in windows)]
        assert len(line) == len(set(line)) and set(line) == stocked

    def complete(self, core: BrokerCore, losses: list[LossRecord], finished: list[Batch]) -> None:
        """The run has come to its end: everything was offered once, trained once or shrunk, and acknowledged once."""
        settings, steps = self.settings, len(self.batches)
        planned = [b for b in self.batches if b.kind == "plan"]
        sizes = [len(b.ids) - b.padding for b in planned]
        short = [size for size in sizes[:-1] if size < settings.step_instances]
        assert not short or self.given_back or self.lengths is not None, "only the last step may be short"
        assert [r.position for r in losses] == list(range(steps * settings.world_size))
        assert [b.step for b in finished] == list(range(steps))
        off_plan = sum(len(b.ids) for b in self.batches if b.kind == "off_plan")
        budgeted = off_plan if settings.boss_instances is not None else 0
        assert core.state.the_run.instances_trained == sum(sizes) + off_plan
        assert core.state.the_run.instances_cut == sum(sizes) + budgeted
        assert sorted(self.ended) == list(range(len(self.ended)))
        for batch in planned:
            before, after = self.ended.get(batch.epoch - 1, -1), self.ended[batch.epoch]
            assert before < batch.step <= after, "a step outside its epoch"
        if settings.boss_instances is not None:
            assert sum(sizes) == max(settings.boss_instances - off_plan, 0) or off_plan
            whole_epochs = len(self.ended) - 1
        else:
            whole_epochs = len(self.ended)
            assert whole_epochs == settings.epoch_budget
        for epoch in range(whole_epochs):
            self._offered_once(core, epoch, all_trained=settings.boss_instances is None)

    def _offered_once(self, core: BrokerCore, epoch: int, *, all_trained: bool) -> None:
        row = core.state.epochs[epoch]
        assert row.ended and row.offered == self.n and row.closed_windows == self.windows_per_epoch
        first = epoch * self.windows_per_epoch
        kept = 0
        for window in range(first, first + self.windows_per_epoch):
            ids, selected = self.window_ids(window), self.selected.get(window)
            expected = selected.kept_ids if selected is not None else ids[:0]
            if window in self.unfiltered:
                expected = ids
            if window in self.given_back and window not in self.unfiltered:
                assert selected is not None
            trained = self.trained_of.get(window, [])
            kept += len(expected)
            assert set(trained) <= set(expected.tolist())
            assert not all_trained or len(trained) == len(expected), "kept, and never trained"
        assert row.kept == kept


def _reported(core: BrokerCore) -> dict[int, tuple[set[int], dict[int, bytes]]]:
    """What has come of each step's reports, and what of it waits for the log."""
    return {
        step: (reports.ranks, {rank: losses.tobytes() for rank, losses in sorted(reports.losses.items())})
        for step, reports in core.state.reports.items()
    }


@lru_cache(4096)
def canonical(kind: str, raw: bytes) -> bytes:
    """A row's bytes as a restarted broker would write them: 1 and 1.0 are the same counter."""
    return encode_row(decode_row(kind, raw))


def _same(one: Batch, other: Batch) -> bool:
    return (
        np.array_equal(one.ids, other.ids)
        and np.array_equal(one.keep_probabilities, other.keep_probabilities)
        and (one.step, one.epoch, one.progress, one.rank_counts, one.segments, one.padding)
        == (other.step, other.epoch, other.progress, other.rank_counts, other.segments, other.padding)
    )
