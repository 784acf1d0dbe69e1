"""``compare.png``: metric against Boss passes and against wall time, with bands of a standard deviation."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from autoassist.compare_result import UNIFORM, Cell, Comparison, put

PLOT_FILE = "compare.png"
DPI = 130


def can_plot() -> bool:
    """Whether matplotlib is installed; it comes with the extra ``plot``."""
    return importlib.util.find_spec("matplotlib") is not None


def plot(comparison: Comparison, folder: Path) -> Path:
    """Draw it; returns the file's path. Needs matplotlib, but no display. Raises
    StoreError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for policy in comparison.policies:
        cells = sorted((c for c in comparison.cells if c.policy == policy), key=lambda c: c.budget)
        _draw(left, [c.passes for c in cells], cells)
        _draw(right, [c.wall_s for c in cells], cells)
    left.set_xlabel("Boss passes")
    right.set_xlabel("wall time of the Boss, s (evaluation excluded)")
    left.set_ylabel(comparison.metric_name)
    if full := comparison.cell(UNIFORM, 1.0):
        for axes in (left, right):
            axes.axhline(full.metric, color="0.6", linewidth=0.8, linestyle=":")
    left.legend(frameon=False)
    epochs = f"{comparison.epochs} epoch{'s' if comparison.epochs > 1 else ''}"
    figure.suptitle(f"{comparison.title}, {epochs}, {len(comparison.seeds)} seed(s): mean, band ± s.d.")
    return put(folder / PLOT_FILE, lambda part: figure.savefig(part, dpi=DPI, format="png"))


def _draw(axes: Any, costs: list[float], cells: list[Cell]) -> None:
    """One policy's line; the band is left out where there is one seed."""
    metrics = [c.metric for c in cells]
    (line,) = axes.plot(costs, metrics, marker="o", markersize=4, label=cells[0].policy if cells else "")
    if cells and all(c.metric_sd is not None for c in cells):
        low = [c.metric - (c.metric_sd or 0.0) for c in cells]
        high = [c.metric + (c.metric_sd or 0.0) for c in cells]
        axes.fill_between(costs, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
