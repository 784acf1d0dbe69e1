"""Features made short: what tells instances apart lies in few directions, and short rows are fetched sooner.

Ours. The Assistant's own models take an image's first 64 principal components in place of its pixels: fetching a row
and multiplying it was most of what a look at an unseen instance cost, and they predict as well (docs/RESULTS.md, "Data
seen once").
"""

from __future__ import annotations

import logging
import time
import weakref

import numpy as np
from numpy.typing import NDArray

from assistant.scales import sample_of
from protocol.arrays import F32

log = logging.getLogger("autoassist.assistant")

COMPONENTS = 64
SPARE = 16
"""Directions that are followed beside, so that the last of the wanted ones come out well."""
SHORTEST = 2 * COMPONENTS
"""Columns below which nothing would be gained."""
MOST_VALUES = 1 << 29
"""Of all features; more take too long at the start: this many take one to four seconds."""
MOST_INSTANCES = 1 << 20
"""256 MB of components."""
ROUNDS = 4
LEAST_SHARE = 0.7
"""Of the variance; what keeps less of it may have lost what matters. Images keep 0.86 to 0.94, independent numbers
little more than 64 in so many columns."""
SPREAD = 3.0
"""Root mean square of a component: a step of the models is as long as with standardised pixels, measured best on both
sets."""
CHUNK = 4096

_last: tuple[weakref.ref[NDArray[np.float32]], NDArray[np.float32]] | None = None
"""Features, and what they became: an Assistant that joins a run anew has it at once."""


def condensed(features: NDArray[np.float32], scales: F32 | None = None) -> NDArray[np.float32]:
    """``features`` (n, d), times their ``column_scales``, as (n, 64) float32, their mean 0; the same, without scales,
    where d is small, n·d large, or 64 directions do not hold most of the variance."""
    global _last  # noqa: PLW0603
    if _last is not None and _last[0]() is features:
        return _last[1]
    found = _condensed(features, scales)
    _last = weakref.ref(features), found
    return found


def _condensed(features: NDArray[np.float32], scales: F32 | None) -> NDArray[np.float32]:
    # The plain array of a memory map: numpy takes ten times as long to make a part of a map.
    rows, began = np.asarray(features), time.perf_counter()
    if rows.shape[1] < SHORTEST or rows.size > MOST_VALUES or not COMPONENTS < len(rows) <= MOST_INSTANCES:
        return rows
    sample = sample_of(rows).astype(np.float32)
    if scales is not None:
        sample *= scales
    mean = sample.mean(axis=0)
    sample -= mean
    axes, share = principal_axes(sample)
    if not share >= LEAST_SHARE:
        return rows
    axes *= np.float32(SPREAD * (COMPONENTS / (share * _variance(sample))) ** 0.5)
    shift, components = mean @ axes, np.empty((len(rows), COMPONENTS), dtype=np.float32)
    if scales is not None:
        axes *= scales[:, None]
    for start in range(0, len(rows), CHUNK):
        part = components[start : start + CHUNK]
        np.matmul(rows[start : start + CHUNK], axes, out=part)
        part -= shift
    what = "features: %d columns as %d, %.0f %% of their variance, in %.1f s"
    log.info(what, rows.shape[1], COMPONENTS, 100 * share, time.perf_counter() - began)
    return components


def principal_axes(sample: F32) -> tuple[F32, float]:
    """The first 64 principal axes of a centred sample (k, d), shape ``(d, 64)``, and their share of its variance.

    Subspace iteration with a random start (Halko, Martinsson, Tropp, SIAM Review 2011, algorithm 4.4), so that the time
    grows with d and not with its cube. The share is NaN, and the axes are of no use, where the sample is not finite or
    does not vary.
    """
    total = _variance(sample) * len(sample)
    basis = np.random.default_rng(0).normal(size=(sample.shape[1], COMPONENTS + SPARE)).astype(np.float32)
    if not np.isfinite(total) or total <= 0.0:
        return basis[:, :COMPONENTS], float("nan")
    for _ in range(ROUNDS):
        basis, _ = np.linalg.qr(sample.T @ (sample @ basis))
    found = sample @ basis
    values, turned = np.linalg.eigh(found.T @ found)
    axes: F32 = basis @ turned[:, : -COMPONENTS - 1 : -1]
    return axes, float(values[-COMPONENTS:].sum() / total)


def _variance(sample: F32) -> float:
    """Of all columns together."""
    return float(np.einsum("ij,ij->", sample, sample, dtype=np.float64)) / len(sample)
