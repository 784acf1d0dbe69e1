"""A run as one HTML file: sections in the order in which somebody asks, each from what could be read."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from autoassist.remembered import COMMAND_FILE
from autoassist.report.charts import Curve, bars, lines
from autoassist.report.curves import LOSS_BINS, LOSS_DECADES, PI_BINS, History
from autoassist.report.faults import WHY_UNFILTERED, faults
from autoassist.report.markup import page, table, tag
from autoassist.report.sources import Sources
from autoassist.report.style import STYLE
from autoassist.summary import rows, verdict
from protocol.metric import metric_text
from protocol.report import REPORT_FILE, Report
from protocol.settings import RunSettings

MOST_SET_ASIDE_SHOWN = 200
MOST_COMPLAINTS = 200
TIME = "%Y-%m-%d %H:%M:%S"


def run_page(found: Sources) -> bytes:
    """The whole document."""
    report = found.report
    name = report.workload.rpartition("/")[2] if report is not None else found.run_dir.absolute().name
    title = f"{name} · {report.policy} · seed {report.seed} · {report.status}" if report is not None else name
    return page(f"AutoAssist: {title}", STYLE, [tag("h1", title), *_body(found), _footer(found)])


def _body(found: Sources) -> Iterator[Element]:
    if found.problems:
        items = [tag("li", problem) for problem in found.problems]
        yield tag("section", tag("h2", "What could not be read"), tag("ul", items), class_="problems")
    if found.report is not None:
        figures = [row for row in rows(found.report) if row[0] != "kept by epoch"]  # the epochs have a table
        yield tag("p", verdict(found.report), class_="verdict")
        if found.report.status == "running":
            yield tag("p", "The run has not ended, or was killed: these are its figures so far.", class_="note")
        yield _section("At a glance", table(("figure", "value"), figures))
    yield from _charts(found)
    if found.report is not None:
        yield from _selection(found, found.report)
    yield _faults(found)
    yield from _set_aside(found)
    yield from _settings(found)


def _section(heading: str, *parts: Element | list[Element]) -> Element:
    return tag("section", tag("h2", heading), *parts)


def _charts(found: Sources) -> Iterator[Element]:
    curves, report = found.curves, found.report
    history = report.metric.history if report is not None else []
    metric = (report.metric.name if report is not None else "") or "metric"
    results = [(float(passes), math.nan if value is None else value) for _, passes, _, value in history]
    bound = report.selection.staleness_steps.bound if report is not None else 0
    stale = [Curve(name="stalest batch", points=curves.staleness)]
    if bound and curves.staleness:
        ends = [(curves.staleness[0][0], float(bound)), (curves.staleness[-1][0], float(bound))]
        stale.append(Curve(name="bound", points=ends, is_limit=True))
    losses = [Curve(name="of what was offered (1/π)", points=curves.loss)]
    losses.append(Curve(name="of what was trained", points=curves.trained_loss))
    kept = [Curve(name="kept", points=curves.kept), Curve(name="not judged", points=curves.unfiltered)]
    waits = [(r.wall_s, r.exposed_wait_s / r.wall_s) for r in found.epochs if r.wall_s > 0]
    shares = _equal(curves.keep_probabilities, PI_BINS, (0.0, 1.0))
    last = _equal(curves.last_losses, LOSS_BINS, LOSS_DECADES)
    waited = [Curve(name="wait", points=waits)]
    drawn = [
        lines(f"{metric} against Boss passes", "Boss passes", metric, [Curve(name=metric, points=results)]),
        lines("Mean loss", "step", "loss", losses, y_from=0.0),
        lines("Kept of what was offered", "epoch", "share", kept, y_from=0.0),
        lines("Staleness", "step", "steps", stale, y_from=0.0),
        lines("Exposed wait so far", "seconds of the Boss", "share", waited, y_from=0.0),
        bars("Keep probability π of what was trained", "π", "instances", shares),
        bars("Losses in the last tenth", "log10 of the loss", "instances", last),
    ]
    shown = [chart for chart in drawn if chart is not None]
    if shown:
        parts = [tag("div", shown, class_="charts")]
        if curves.every > 1:
            parts.append(tag("p", f"The logs are long: every {curves.every}th record is drawn.", class_="note"))
        yield _section("Curves", parts)


def _equal(counts: Any, bins: int, span: tuple[float, float]) -> list[tuple[float, float, float]]:
    width = (span[1] - span[0]) / bins
    return [(span[0] + i * width, span[0] + (i + 1) * width, float(count)) for i, count in enumerate(counts)]


def _selection(found: Sources, report: Report) -> Iterator[Element]:
    results = {result.epoch: result for result in found.epochs}
    values = {epoch: value for epoch, _, _, value in report.metric.history}
    by_epoch = []
    for epoch in report.selection.epochs:
        result, value = results.get(epoch.epoch), values.get(epoch.epoch)
        by_epoch.append(
            (
                *(str(epoch.epoch), str(epoch.offered), str(epoch.kept), f"{epoch.kept_fraction:.1%}"),
                *(f"{epoch.unfiltered_fraction:.1%}", "-" if value is None else metric_text(value)),
                *(("-", "-", "-") if result is None else _of_epoch(result)),
            )
        )
    heads = (
        "epoch",
        "offered",
        "kept",
        "share",
        "not judged",
        report.metric.name or "metric",
        "passes",
        "Boss's time, s",
    )
    if by_epoch:
        yield _section("Epochs", table((*heads, "exposed wait, s"), by_epoch))
    whole = report.selection.unfiltered_windows
    if whole:
        why = [(reason, str(n), WHY_UNFILTERED.get(reason, "")) for reason, n in sorted(whole.items())]
        yield _section("Why windows passed whole", table(("reason", "windows", "meaning"), why, words=3))
    if report.assistants:
        yield _section("Assistants", [_assistant(one.name, one) for one in report.assistants])


def _of_epoch(result: Any) -> tuple[str, str, str]:
    return str(result.boss_instances), f"{result.wall_s:.2f}", f"{result.exposed_wait_s:.3f}"


def _assistant(name: str, one: Any) -> Element:
    counts = [(key.replace("_", " "), str(value)) for key, value in _fields(one).items() if isinstance(value, int)]
    said = [(key.replace("_", " "), "-" if v is None else f"{v:.6g}") for key, v in one.figures.items()]
    return tag("div", tag("h3", name), table(("figure", "value"), [*counts, *said]))


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def _faults(found: Sources) -> Element:
    met = [(fault.what, fault.times, fault.meaning) for fault in faults(found)]
    parts: list[Element] = []
    if met:
        parts.append(table(("what", "how often", "what it meant"), met, words=3))
    elif found.report is not None:
        parts.append(tag("p", "None that the figures show."))
    said = [(c.role, c.level, c.text, str(c.times)) for c in found.complaints[:MOST_COMPLAINTS]]
    if said:
        parts += [tag("h3", "What the roles warned of"), table(("role", "level", "said", "times"), said, words=3)]
    elif (found.run_dir / "logs").is_dir():
        parts.append(tag("p", "The roles' logs hold no warning and no error."))
    else:
        parts.append(tag("p", "The roles' logs are not in this directory: each role has said its words elsewhere."))
    if len(found.complaints) > MOST_COMPLAINTS:
        parts.append(tag("p", f"{len(found.complaints) - MOST_COMPLAINTS} more are in logs/.", class_="note"))
    return _section("Faults met", parts)


def _set_aside(found: Sources) -> Iterator[Element]:
    ids = found.set_aside
    if not ids:
        return
    shown = [_history_row(id_, found.curves.histories.get(id_, History())) for id_ in ids[:MOST_SET_ASIDE_SHOWN]]
    heads = ("instance", "reports", "mean of the latest", "last loss", "latest losses, oldest first")
    words = (
        f"{len(ids)} instances lost more than an untrained network for long, so that their labels are suspected; the "
        "surest come first. An Assistant names at most 1000 when it leaves."
    )
    parts = [tag("p", words), table(heads, shown)]
    if len(ids) > MOST_SET_ASIDE_SHOWN:
        rest = ", ".join(map(str, ids[MOST_SET_ASIDE_SHOWN:]))
        parts.append(tag("details", tag("summary", f"{len(ids) - MOST_SET_ASIDE_SHOWN} more"), tag("p", rest)))
    yield _section("Set aside: suspected wrong labels", parts)


def _history_row(id_: int, history: History) -> tuple[str, str, str, str, str]:
    losses = [loss for _, loss in history.losses if math.isfinite(loss)]
    if not losses:
        return str(id_), str(history.reports), "-", "-", "-"
    mean, latest = sum(losses) / len(losses), "  ".join(f"{loss:.3g}" for loss in losses)
    return str(id_), str(history.reports), f"{mean:.3g}", f"{losses[-1]:.3g}", latest


def _settings(found: Sources) -> Iterator[Element]:
    report = found.report
    if report is not None:
        default = RunSettings().as_dict()
        said = [
            (k, _word(v), "" if default.get(k) == v else _word(default.get(k, "-"))) for k, v in report.settings.items()
        ]
        yield _section("Settings of the run", table(("setting", "value", "default, where it differs"), said, words=3))
        facts = {"run": report.run_id, "data set": report.dataset_id, "instances": str(report.n)}
        yield _section("Versions", table(("of", "version"), [*facts.items(), *report.versions.items()], words=2))
    command = [(k, _word(v)) for k, v in _flat(found.command) if not k.startswith("run.")]
    if command:
        yield _section("What began it", table(("option", "value"), command, words=2))


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def _word(value: object) -> str:
    return {"True": "yes", "False": "no", "None": "-", "": "-"}.get(str(value), str(value))


def _footer(found: Sources) -> Element:
    """Times of day come from the files: no message of a run carries one."""
    begun, ended = _changed(found.run_dir / COMMAND_FILE), _changed(found.run_dir / REPORT_FILE)
    words = [f"Begun {begun}." if begun else "", f"Last figures written {ended}." if ended else ""]
    made = time.strftime(TIME)
    version = metadata.version("autoassist")
    text = f"{found.run_dir.absolute()}. {' '.join(filter(None, words))} Page made {made} by AutoAssist {version}."
    return tag("footer", tag("p", text))


def _changed(path: Path) -> str:
    try:
        return time.strftime(TIME, time.localtime(path.stat().st_mtime))
    except OSError:
        return ""
