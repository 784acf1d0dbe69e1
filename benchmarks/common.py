"""Shared by the benchmarks: the machine, the spread, a table."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence

import numpy as np
import psutil

from protocol.arrays import F32

DECAY = 10.0


def machine() -> str:
    """One line that says where the figures come from."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{platform.machine()}, {os.cpu_count()} logical cores, {memory_gib:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, load before {os.getloadavg()[0]:.1f}"
    )


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """``median (least … greatest)``."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} … {max(values):{form}})"


def mean_sd(values: Sequence[float], form: str = ".2f") -> str:
    """``mean ± standard deviation``."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{form}} ± {deviation:{form}}"


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Mean of the differences of pairs ± its standard error; "-" where all are equal."""
    pairs = np.subtract(ours, theirs)
    if not pairs.any():
        return "-"
    error = f" ± {pairs.std(ddof=1) / np.sqrt(len(pairs)):.2f}" if len(pairs) > 1 else ""
    return f"{pairs.mean():+.2f}{error}"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + "|".join("---" for _ in header) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def image_like(rng: np.random.Generator, n: int, width: int) -> F32:
    """Features whose columns have deviations 1 / (1 + j / 10): 64 principal components hold 0.88 of the variance, as of
    images (0.86 to 0.89), which an Assistant condenses to them. Shape ``(n, width)``."""
    features = rng.normal(size=(n, width)).astype(np.float32)
    features *= np.float32(1.0) / (1.0 + np.arange(width, dtype=np.float32) / DECAY)
    return features
