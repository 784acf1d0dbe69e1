"""A comparison in the terminal: what was measured, what is saved, and the sentence. Fits into 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from autoassist.compare_result import UNIFORM, Cell, Comparison, Difference, Saving
from autoassist.terminal import shown
from protocol.metric import metric_form

MARK = "≈"
LEAST_WIDTH = 100
"""Columns where the output is no terminal: a table in a log is not to be broken."""
MEASURED = ("policy", "budget", "metric", "passes", "kept", "wall, s", "a pass", "wait")
SAVED = ("policy", "budget", "passes saved", "wall time saved", "above random-drop")
SHARE = "share"


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print it."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(LEAST_WIDTH, console.width)
    c = comparison
    count = f"{len(c.seeds)} seed{'s' if len(c.seeds) > 1 else ''}"
    epochs = f"{c.epochs} epoch{'s' if c.epochs > 1 else ''}"
    console.print(shown(f"{c.title} · full training: {epochs}, {c.full_passes} passes · {count}, mean ± s.d."))
    console.print("a pass: its wall time relative to uniform's; wait: exposed, of the wall time\n")
    headings = [c.metric_name if heading == "metric" and c.metric_name else heading for heading in MEASURED]
    console.print(_table(headings, [(cell, measured_row(cell)) for cell in c.cells]))
    selecting = [(cell, saved_row(cell)) for cell in c.cells if cell.policy != UNIFORM]
    if selecting:
        spread = " (95 % intervals over the seeds)" if len(c.seeds) > 1 else ""
        console.print()
        console.print(shown(f"saved, of what uniform would need for the same {c.metric_name or 'metric'}{spread}"))
        if any(cell.share_of_oracle is not None for cell in c.cells):
            shares = [(cell, [*row, share(cell)]) for cell, row in selecting]
            console.print(_table((*SAVED, SHARE), shares))
        else:
            console.print(_table(SAVED, selecting))
    for note in notes(comparison):
        console.print(note, soft_wrap=True, highlight=False)
    console.print(shown(c.verdict.sentence, "bold"), soft_wrap=True)


def _table(headings: Sequence[str], rows: Sequence[tuple[Cell, list[str]]]) -> Table:
    """The policy's name stands in its first line only."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in headings:
        is_name = heading == "policy"
        table.add_column(shown(heading), justify="left" if is_name else "right", no_wrap=is_name)
    policy = ""
    for cell, row in rows:
        if policy and cell.policy != policy:
            table.add_section()
        table.add_row(shown(cell.policy if cell.policy != policy else ""), *row)
        policy = cell.policy
    return table


def measured_row(cell: Cell) -> list[str]:
    """All but the policy's name."""
    return [
        f"{cell.budget:g}",
        with_sd(cell.metric, cell.metric_sd, metric_form(cell.metric)),
        f"{cell.passes:.0f}",
        f"{cell.kept_fraction:.0%}",
        with_sd(cell.wall_s, cell.wall_s_sd, ".1f"),
        f"{1.0 + cell.overhead:.2f}",
        f"{cell.exposed_wait_fraction:.1%}",
    ]


def saved_row(cell: Cell) -> list[str]:
    """All but the policy's name."""
    mark = f" {MARK}" if is_marked(cell) else ""
    difference = above_random_drop(cell.against_random_drop, metric_form(cell.metric)) + mark
    return [f"{cell.budget:g}", saved(cell.saving), saved(cell.wall_saving), difference]


def share(cell: Cell) -> str:
    """``44 %`` of what the oracle saves."""
    return "-" if cell.share_of_oracle is None else f"{100 * cell.share_of_oracle:.0f} %"


def saved(saving: Saving | None) -> str:
    """``38 % (30 … 45)``, ``≥ 40 %``, ``none``."""
    if saving is None:
        return "-"
    text = "none" if saving.value is None else f"{'≥ ' if saving.at_least else ''}{100 * saving.value:.0f} %"
    if not saving.has_interval:
        return text
    low, high = ("none" if end is None else f"{100 * end:.0f}" for end in (saving.low, saving.high))
    return f"{text} ({low} … {high})"


def above_random_drop(difference: Difference | None, form: str) -> str:
    """``+0.0031 ± 0.0019``; the interval is symmetric."""
    if difference is None:
        return "-"
    reach = "" if difference.reach is None else f" ± {difference.reach:{form}}"
    return f"{difference.value:+{form}}{reach}"


def is_marked(cell: Cell) -> bool:
    """Whether the policy is not distinguishable from random-drop at this budget."""
    return cell.against_random_drop is not None and not cell.against_random_drop.is_distinguishable


def with_sd(mean: float, sd: float | None, form: str) -> str:
    """``mean ± s.d.``; the mean alone of one seed."""
    return f"{mean:{form}}" if sd is None else f"{mean:{form}} ± {sd:{form}}"


def notes(comparison: Comparison) -> list[str]:
    """What the marks mean, as far as they are there."""
    found = []
    savings = [s for cell in comparison.cells for s in (cell.saving, cell.wall_saving) if s is not None]
    if any(s.value is None or (s.has_interval and s.low is None) for s in savings):
        found.append("none: uniform does better with its least budget already")
    if any(cell.share_of_oracle is not None for cell in comparison.cells):
        found.append(f"{SHARE}: of what the oracle saves at the same budget, which nobody can have")
    if any(s.at_least for s in savings):
        found.append("≥: better than all that uniform reaches, so the saving is at least that")
    if any(is_marked(cell) for cell in comparison.cells):
        found.append(f"{MARK} not distinguishable from random-drop at the same budget")
    return found
