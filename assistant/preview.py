"""What a person may see of the instances: how their losses went, what is kept, what is left out, and how it looks.

It only listens and counts, so that no selection depends on whether anybody looks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from assistant.policies import Moment, Policy
from assistant.policies.guards import BEGINNING, FOR_LONG
from protocol.arrays import F32, I64, empty_f32, empty_i64
from protocol.messages import MOST_PIXELS, MOST_TEXT, LossRecord, Preview, PreviewReply, Shown

log = logging.getLogger("autoassist.assistant")

DEPTH = 8
"""Losses that are remembered of an instance."""
MOST_KNOWN = 1 << 20
"""Instances whose losses are remembered, 36 bytes each; of a larger data set every second one, every third, …"""
SAMPLE = 4096
"""Instances that the histogram of π is made of."""
LOSS_BINS = 40
KEEP_BINS = 20

View = NDArray[np.uint8] | str | None
"""Pixels of shape (h, w) or (h, w, 3), a text, or nothing."""
Show = Callable[[int], View]


class LossHistory:
    """The last losses of each instance. ``trained`` has shape ``(known,)``, ``losses`` ``(known, DEPTH)``."""

    def __init__(self, n: int) -> None:
        self.every = max(1, math.ceil(n / MOST_KNOWN))
        """Distance between two IDs that are remembered."""
        known = math.ceil(n / self.every)
        self.losses: F32 = np.zeros((known, DEPTH), dtype=np.float32)
        """A ring: the loss of report r is at ``r % DEPTH``."""
        self.trained: NDArray[np.int32] = np.zeros(known, dtype=np.int32)
        """How often a loss was reported."""
        self._sum = 0.0
        self._count = 0

    def observe(self, record: LossRecord) -> None:
        """Take finite losses in."""
        if self._count < BEGINNING:
            self._sum += float(record.losses.sum(dtype=np.float64))
            self._count += len(record.losses)
        ids, losses = record.ids, record.losses
        if self.every > 1:
            is_known = ids % self.every == 0
            ids, losses = ids[is_known] // self.every, losses[is_known]
        self.losses[ids, self.trained[ids] % DEPTH] = losses
        self.trained[ids] += 1

    @property
    def untrained_level(self) -> float:
        """Mean loss of a Boss that knows nothing; infinite until it is known."""
        return self._sum / self._count if self._count >= BEGINNING else math.inf

    def seen(self) -> I64:
        """Places of those that have a loss."""
        return np.flatnonzero(self.trained)

    def last(self, places: I64, back: int = 0) -> F32:
        """The latest loss of each, or the one ``back`` reports before it, shape ``(k,)``."""
        found: F32 = self.losses[places, (self.trained[places] - 1 - back) % DEPTH]
        return found

    def of(self, place: int) -> F32:
        """The remembered losses of one, oldest first."""
        trained = int(self.trained[place])
        places = np.arange(max(0, trained - DEPTH), trained) % DEPTH
        found: F32 = self.losses[place, places]
        return found

    def most_kept(self, count: int) -> I64:
        """Places: trained most often; of those trained as often, with the greatest last loss."""
        return self._first(-self._rank(), count)

    def most_shrunk(self, count: int) -> I64:
        """Places: trained least often, and at least once; of those trained as often, with the least last loss."""
        return self._first(self._rank(), count)

    def most_suspect(self, count: int) -> I64:
        """Places: the last losses all above those of a Boss that knows nothing, the greatest mean first."""
        places = np.flatnonzero(self.trained >= FOR_LONG)
        latest = np.stack([self.last(places, back) for back in range(FOR_LONG)])
        suspect = latest.min(axis=0) > self.untrained_level
        places, means = places[suspect], latest[:, suspect].mean(axis=0)
        found: I64 = places[np.argsort(-means, kind="stable")[:count]]
        return found

    def _rank(self) -> NDArray[np.float64]:
        """Orders the seen by how often they were trained, then by the last loss."""
        places = self.seen()
        last = self.last(places).astype(np.float64)
        return self.trained[places] + 0.5 + np.arctan(last) / math.pi

    def _first(self, rank: NDArray[np.float64], count: int) -> I64:
        count = min(count, len(rank))
        if not count:
            return empty_i64()
        first = np.argpartition(rank, count - 1)[:count]
        return self.seen()[first[np.argsort(rank[first], kind="stable")]]


class Previews:
    """Answers Preview out of a history and what the workload shows."""

    def __init__(self, n: int, labels: NDArray[np.int64] | None = None, show: Show | None = None) -> None:
        self.history = LossHistory(n)
        self._labels = labels
        self._show = show

    def answer(self, wanted: Preview, name: str, policy: Policy, moment: Moment) -> PreviewReply:
        """All that there is to see."""
        history, seen = self.history, self.history.seen()
        edges, counts = loss_histogram(history.last(seen))
        groups = {
            "kept": history.most_kept(wanted.instances),
            "shrunk": history.most_shrunk(wanted.instances),
            "suspected": history.most_suspect(wanted.instances),
        }
        return PreviewReply(
            number=wanted.number,
            assistant=name,
            groups={group: self._shown(places, policy, moment) for group, places in groups.items()},
            known=len(seen),
            set_aside=len(policy.set_aside),
            loss_edges=edges,
            loss_counts=counts,
            keep_counts=self._keep_histogram(policy, moment),
        )

    def _keep_histogram(self, policy: Policy, moment: Moment) -> I64:
        step = max(1, math.ceil(len(self.history.trained) / SAMPLE))
        ids = np.arange(0, len(self.history.trained), step, dtype=np.int64) * self.history.every
        keep = policy.keep_probability(ids, moment)
        return np.histogram(keep, bins=KEEP_BINS, range=(0.0, 1.0))[0].astype(np.int64)

    def _shown(self, places: I64, policy: Policy, moment: Moment) -> list[Shown]:
        ids = places * self.history.every
        keep = policy.keep_probability(ids, moment) if len(ids) else empty_f32()
        return [self._one(int(place), int(i), float(pi)) for place, i, pi in zip(places, ids, keep, strict=True)]

    def _one(self, place: int, instance_id: int, keep: float) -> Shown:
        view = self._view(instance_id)
        pixels = view if isinstance(view, np.ndarray) else None
        return Shown(
            id=instance_id,
            trained=int(self.history.trained[place]),
            keep_probability=keep,
            losses=self.history.of(place),
            label=int(self._labels[instance_id]) if self._labels is not None else -1,
            text=view[:MOST_TEXT] if isinstance(view, str) else "",
            pixels=pixels.tobytes() if pixels is not None else b"",
            height=pixels.shape[0] if pixels is not None else 0,
            width=pixels.shape[1] if pixels is not None else 0,
        )

    def _view(self, instance_id: int) -> View:
        """What the workload shows of it, small enough; nothing, and never an error, where that cannot be shown."""
        if self._show is None:
            return None
        try:
            return fitting(self._show(instance_id))
        except Exception as error:  # the user's own code; scoring goes on whatever it does
            log.warning("instances are shown without pictures: %s: %s", type(error).__name__, error)
            self._show = None
            return None


def fitting(view: View) -> View:
    """The same, a picture with every second pixel left out, or more, until it is small enough; raises ValueError."""
    if view is None or isinstance(view, str):
        return view
    if view.dtype != np.uint8 or view.ndim not in (2, 3) or (view.ndim == 3 and view.shape[2] != 3) or not view.size:
        raise ValueError(f"preview() gave {view.dtype} of shape {view.shape}; give uint8 of shape (h, w) or (h, w, 3)")
    step = max(1, math.ceil(max(view.shape[:2]) / MOST_PIXELS))
    return np.ascontiguousarray(view[::step, ::step])


def loss_histogram(losses: F32) -> tuple[F32, I64]:
    """Edges and counts; equal bins on a logarithmic scale where all losses are positive, six decades at most."""
    if not len(losses):
        return empty_f32(), empty_i64()
    low, high = float(losses.min()), float(losses.max())
    if low > 0.0 and high > low:
        edges = np.geomspace(max(low, high * 1e-6), high, LOSS_BINS + 1)
    else:
        edges = np.linspace(low, high if high > low else low + 1.0, LOSS_BINS + 1)
    counts, _ = np.histogram(np.clip(losses, edges[0], edges[-1]), bins=edges)
    return edges.astype(np.float32), counts.astype(np.int64)
