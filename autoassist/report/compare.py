"""A comparison as one HTML file: the sentence, the curves, what was measured, what is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from xml.etree.ElementTree import Element

from autoassist.compare_result import UNIFORM, Cell, Comparison
from autoassist.compare_table import MEASURED, SAVED, SHARE, measured_row, notes, saved_row, share
from autoassist.report.charts import Curve, lines
from autoassist.report.markup import page, table, tag
from autoassist.report.style import STYLE
from protocol.metric import metric_text


def comparison_page(found: Comparison, folder: Path) -> bytes:
    """The whole document."""
    title = f"{found.title}: does selection pay?"
    made = f"{folder.absolute()}. Page made by AutoAssist {metadata.version('autoassist')}."
    return page(f"AutoAssist: {title}", STYLE, [tag("h1", title), *_body(found), tag("footer", tag("p", made))])


def _body(found: Comparison) -> Iterator[Element]:
    yield tag("p", found.verdict.sentence, class_="verdict")
    seeds = ", ".join(map(str, found.seeds))
    yield tag("p", f"Full training: {found.epochs} epochs, {found.full_passes} passes; seeds {seeds}.", class_="note")
    metric = found.metric_name or "metric"
    drawn = [
        lines(f"{metric} against Boss passes", "Boss passes", metric, _curves(found, lambda cell: cell.passes)),
        lines(f"{metric} against wall time", "seconds of the Boss", metric, _curves(found, lambda cell: cell.wall_s)),
    ]
    yield tag("section", tag("div", [chart for chart in drawn if chart is not None], class_="charts"))
    heads = [metric if heading == "metric" else heading for heading in MEASURED]
    measured = [(cell.policy, *measured_row(cell)) for cell in found.cells]
    yield tag("section", tag("h2", "Measured, mean ± s.d."), table(heads, measured))
    selecting = [(cell.policy, *saved_row(cell), share(cell)) for cell in found.cells if cell.policy != UNIFORM]
    if selecting:
        words = f"Saved, of what uniform would need for the same {metric}; share of the oracle's"
        yield tag(
            "section", tag("h2", words), table((*SAVED, SHARE), selecting), [tag("p", note) for note in notes(found)]
        )
    runs = [
        (
            run.run_dir,
            run.policy,
            f"{run.budget:g}",
            str(run.seed),
            metric_text(run.metric),
            str(run.passes),
            f"{run.wall_s:.1f}",
        )
        for run in found.runs
    ]
    heads = ["directory", "policy", "budget", "seed", metric, "passes", "wall, s"]
    yield tag("section", tag("h2", "Runs"), table(heads, runs, words=2))
    if found.options:
        yield tag("section", tag("h2", "Settings given"), tag("p", " ".join(found.options)))


def _curves(found: Comparison, cost: Callable[[Cell], float]) -> list[Curve]:
    """One for each policy, by what its cells cost."""
    return [
        Curve(name=policy, points=sorted((cost(cell), cell.metric) for cell in found.cells if cell.policy == policy))
        for policy in found.policies
    ]
