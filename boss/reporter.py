"""Losses leave the training thread without a wait: a ring of slots, pinned where the losses are on a GPU.

The training thread launches a copy into a slot and goes on; the I/O thread records an event behind all copies that it
finds, and takes their slots once that has fired. A full ring drops the values and still acknowledges the step.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor

from boss.plan import RankBatch
from protocol.arrays import F32, empty_f32, empty_i64
from protocol.errors import TrainingDiverged
from protocol.messages import LossReport, OffPlanReport

log = logging.getLogger("autoassist.boss")

RING_SLOTS = 64
TIMINGS = 4096
HOPELESS_STEPS = 20
"""So many steps in a row without a single finite loss, and the network has diverged."""
NAMED_IDS = 8
"""Most instances that the warning of losses that are not finite names."""


class Slot(msgspec.Struct):
    """One report on its way; a struct is made in a fraction of a dataclass's time."""

    batch: RankBatch
    values: Tensor | None
    """In host memory; None where they were dropped."""
    buffer: Tensor | None
    """Pinned, to be used again: the values of a GPU are its beginning."""
    stream: torch.Stream | None
    """On which the copy from a GPU was launched."""
    is_skipped: bool
    """The script has no losses for this batch, and says so."""
    report_us: float
    event: torch.Event | None = None
    """Behind that copy; the I/O thread records it, since it costs the training thread more than the copy does."""


@dataclass(frozen=True, slots=True)
class Latest:
    """Losses of a step, and its batch."""

    losses: F32
    batch: RankBatch


class Reporter:
    """``put`` from the training thread, ``take`` from the I/O thread."""

    def __init__(self, rank: int, slots: int = RING_SLOTS) -> None:
        self.rank = rank
        self.sent = 0
        self.values_dropped = 0
        self.values_not_finite = 0
        self.latest: Latest | None = None
        """Of the latest report whose values came, for whoever watches; replaced, never changed."""
        self.steps_without_a_finite_loss = 0
        """How many of the latest steps had none at all, in a row."""
        self._ring: deque[Slot] = deque()
        self._slots = slots
        self._free: defaultdict[int, list[Tensor]] = defaultdict(list)
        """Pinned buffers by their size."""
        self._is_on_device = False
        """Whether losses come from a GPU, as far as is known."""
        self._device_index = -1
        """Of the device that the I/O thread works with; -1 before its first event."""
        self._timings_us: deque[float] = deque(maxlen=TIMINGS)

    def put(self, batch: RankBatch, losses: Tensor, *, is_skipped: bool = False) -> None:
        """Copy per-instance losses, shape ``(batch,)``, and return; never synchronises the device."""
        start = time.perf_counter()
        values: Tensor | None
        values = buffer = stream = None
        if len(self._ring) >= self._slots:
            self.values_dropped += losses.numel()
        elif losses.is_cpu:
            values = losses.detach().clone()  # what else is to be done with it, the I/O thread does
        else:
            values, buffer, stream = self._from_device(losses.detach())
        self._ring.append(Slot(batch, values, buffer, stream, is_skipped, (time.perf_counter() - start) * 1e6))

    def _from_device(self, losses: Tensor) -> tuple[Tensor, Tensor, torch.Stream]:
        self._is_on_device = True
        size = losses.numel()
        room = 1 << (size - 1).bit_length()  # a few sizes serve all: to pin memory waits for the device
        buffer = self._free[room].pop() if self._free[room] else self._pinned(room)
        pinned = buffer if len(buffer) == size else buffer[:size]
        # Another dtype is changed on the device: the copy itself would do so in memory that is not pinned, and wait.
        pinned.copy_(losses.to(torch.float32), non_blocking=True)
        # torch.cuda's own takes three times as long.
        return pinned, buffer, torch.accelerator.current_stream(losses.get_device())

    @staticmethod
    def _pinned(size: int) -> Tensor:
        with torch.inference_mode(False):
            return torch.empty(size, dtype=torch.float32, device="cpu", pin_memory=True)

    @property
    def is_waiting(self) -> bool:
        """Whether a copy is still on its way."""
        return bool(self._ring)

    @property
    def lag_steps(self) -> int:
        """Reports that a device has not got to, or of which the I/O thread has not heard so; 0 without a device."""
        return len(self._ring) if self._is_on_device else 0

    @property
    def has_values(self) -> bool:
        """Whether the oldest copy is done; asked by the I/O thread alone."""
        self._record_events()
        return bool(self._ring) and _is_done(self._ring[0])

    def take(self) -> list[LossReport | OffPlanReport]:
        """Reports whose copies are done, in order."""
        reports: list[LossReport | OffPlanReport] = []
        self._record_events()
        while self._ring and _is_done(self._ring[0]):
            slot = self._ring[0]
            losses = self._values(slot)
            self._ring.popleft()  # only now, for who waits until all have come wants to know what they were
            self.sent += 1
            self._timings_us.append(slot.report_us)
            step = slot.batch.step
            if slot.batch.off_plan:
                ids = slot.batch.ids if len(losses) else empty_i64()
                reports.append(OffPlanReport(number=step, through=step, ids=ids, losses=losses))
            else:
                reports.append(
                    LossReport(step=step, through=step, rank=self.rank, losses=losses, report_us=slot.report_us)
                )
        return reports

    def _record_events(self) -> None:
        """One behind all copies that have none yet. A device that lags by some steps fires it as much later: with an
        event for the oldest copy alone, recorded when the one before has fired, reports would come too fast for it."""
        last: Slot | None = None
        for index in range(len(self._ring) - 1, -1, -1):  # the training thread appends meanwhile
            slot = self._ring[index]
            if slot.event is not None:
                break
            if slot.stream is None:
                continue
            if last is None or last.stream != slot.stream:
                slot.event = self._event_on(slot.stream)
            else:
                slot.event = last.event
            last = slot

    def _event_on(self, stream: torch.Stream) -> torch.Event:
        if stream.device.index != self._device_index:  # a thread's own: left at the first GPU, it would open that too
            torch.accelerator.set_device_index(stream.device.index)
            self._device_index = stream.device.index
        event = torch.Event(stream.device)
        event.record(stream)
        return event

    def _values(self, slot: Slot) -> F32:
        if slot.values is None:
            return empty_f32()
        losses: F32 = slot.values.to(torch.float32).numpy()
        if slot.buffer is not None:
            losses = losses.copy()
            self._free[len(slot.buffer)].append(slot.buffer)
        self._note_not_finite(slot, losses)
        if not slot.is_skipped:
            self.latest = Latest(losses, slot.batch)
        return losses

    def _note_not_finite(self, slot: Slot, losses: F32) -> None:
        bad = ~np.isfinite(losses)
        count = int(bad.sum())
        is_first = self.values_not_finite == 0
        self.values_not_finite += count
        if slot.is_skipped:
            return
        self.steps_without_a_finite_loss = self.steps_without_a_finite_loss + 1 if count == len(losses) else 0
        if count and is_first:
            ids = slot.batch.ids[: len(losses)][bad]
            log.warning(
                "step %d: %d of %d losses are NaN or infinite, of instances %s%s; they count in no mean and no "
                "Assistant learns from them, but the gradient may not be finite either: look at these instances",
                slot.batch.step,
                count,
                len(losses),
                ", ".join(map(str, ids[:NAMED_IDS].tolist())),
                " …" if len(ids) > NAMED_IDS else "",
            )

    def timing_us(self, share: float) -> float:
        """Quantile of what one report cost the training thread; 0 before the first."""
        return float(np.quantile(np.array(self._timings_us), share)) if self._timings_us else 0.0


def diverged(step: int) -> TrainingDiverged:
    """The error of a network that has diverged."""
    return TrainingDiverged(
        f"step {step}: no loss was finite in the last {HOPELESS_STEPS} steps, the network has diverged; "
        "lower the learning rate or mend the data, and resume from the last checkpoint or begin again"
    )


def _is_done(slot: Slot) -> bool:
    """Whether the values are there."""
    return slot.stream is None or (slot.event is not None and slot.event.query())
