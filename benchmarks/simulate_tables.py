"""The simulation's tables: printed, as a part of a page, and as a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import msgspec

from benchmarks.common import machine, print_table
from benchmarks.simulate_figures import MOST_BUSY, MOST_WAIT, Figures, Pair, SimulateBenchmark
from protocol.errors import UserError

BEGIN, END = "<!-- simulate -->", "<!-- /simulate -->"
"""Lines of a page between which the tables stand."""


def cell_rows(pairs: Sequence[Pair], settings: SimulateBenchmark) -> list[list[str]]:
    """A row for each step time; dashes where the broker was saturated at a longer one."""
    rows = []
    for pair in pairs:
        found = {cell.step_ms: cell for cell in pair.cells}
        for step_ms in sorted(settings.step_ms, reverse=True):
            start = [str(pair.ranks), str(pair.assistants), f"{step_ms:g}"]
            rows.append(start + (_words(found[step_ms]) if step_ms in found else ["-"] * 8))
    return rows


def _words(cell: Figures) -> list[str]:
    stale = [_staleness(cell.staleness_p50), _staleness(cell.staleness_p99)]
    return [
        f"{cell.steps_per_s:.3g}",
        f"{100 * cell.exposed_wait:.2f}",
        f"{100 * cell.utilisation:.1f}",
        f"{cell.broker_ms_per_step:.3g}",
        " / ".join(stale),
        f"{100 * cell.unfiltered:.1f}",
        f"{100 * cell.off_plan:.1f}",
        f"{100 * cell.assistant_busy:.0f}",
    ]


def _staleness(steps: float | None) -> str:
    return "-" if steps is None else f"{steps:.0f}"


COLUMNS = ["steps/s", "exposed wait, %", "broker busy, %", "broker, ms a step", "staleness p50 / p99", "unfiltered, %"]
COLUMNS += ["off plan, %", "busiest Assistant, %"]


def limit_rows(pairs: Sequence[Pair]) -> list[list[str]]:
    """A row for each pair."""
    rows = []
    for pair in pairs:
        start, limit = [str(pair.ranks), str(pair.assistants)], pair.limit
        rows.append(start + ([f"{limit.step_ms:.3g}", *_words(limit)] if limit is not None else ["-"] * 9))
    return rows


def most_ranks(pairs: Sequence[Pair], settings: SimulateBenchmark) -> list[list[str]]:
    """For each number of Assistants, the most ranks at which each step time holds."""
    rows = []
    for assistants in settings.assistants:
        row = [str(assistants)]
        for step_ms in settings.step_ms:
            held = [
                c.ranks
                for p in pairs
                if p.assistants == assistants
                for c in p.cells
                if c.step_ms == step_ms and c.holds
            ]
            row.append(str(max(held)) if held else "-")
        rows.append(row)
    return rows


def write(path: Path, pairs: Sequence[Pair], settings: SimulateBenchmark) -> None:
    """All figures, the machine and the settings."""
    given = {name: value for name, value in asdict(settings).items() if name not in ("json", "page")}
    content = {"machine": machine(), "settings": given, "pairs": [asdict(pair) for pair in pairs]}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def tables(pairs: Sequence[Pair], settings: SimulateBenchmark) -> str:
    """All three, as Markdown."""
    with redirect_stdout(io.StringIO()) as text:
        print_table(["ranks", "Assistants", "step, ms", *COLUMNS], cell_rows(pairs, settings))
        print("\nThe shortest steps at which one broker is enough:")
        print(f"busy less than {MOST_BUSY:.0%}, exposed wait at most {MOST_WAIT:.1%}.\n")
        print_table(["ranks", "Assistants", "step, ms", *COLUMNS], limit_rows(pairs))
        print("\nThe most ranks, of those simulated, for which it is enough:\n")
        print_table(["Assistants", *(f"steps of {ms:g} ms" for ms in settings.step_ms)], most_ranks(pairs, settings))
    return text.getvalue()


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the page's two marks. Raises UserError where it has none."""
    old = page.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"page={page}: has no lines {BEGIN} and {END}; put them where the tables belong")
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")
