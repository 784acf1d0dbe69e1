"""How a metric's value reads, wherever it is told: metrics are of any size, an accuracy or a mean error in coulombs."""

from __future__ import annotations

LEAST, MOST = 1e-3, 1e6
"""Sizes between which four decimal places say enough, and not too much."""


def metric_form(value: float) -> str:
    """The format of ``value``, and of what is told beside it: four decimal places, or four significant digits where
    those would be none, or dozens."""
    return ".4f" if value == 0.0 or LEAST <= abs(value) < MOST else ".4g"


def metric_text(value: float) -> str:
    """``0.9096``, ``2.2e-22``."""
    return f"{value:{metric_form(value)}}"
