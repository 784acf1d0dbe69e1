"""Writes docs/METRICS.md from the metrics' definitions, so that the page is never behind them.

python -m docs.make_metrics_page
"""

from __future__ import annotations

from pathlib import Path

from protocol.metrics import LEFT_OUT, METRICS, Metric
from protocol.role_metrics import ASSISTANT_METRICS, BOSS_METRICS

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "METRICS.md"
HEAD = """# Metrics

`autoassist broker … --http-port 9155` serves them at `/metrics` for Prometheus, and `/healthz`: 200 while the broker's
loop turns, 503 while it starts and once it has been stuck for five seconds; `/metrics` then answers 503, too, so that
old figures do not pass for new ones. `--http-port 0` takes any free port, which the log and `--announce` tell. There is
no instance data in them, and nothing can be changed there, so `--http-host 0.0.0.0` is allowed without a key. GET and
HEAD are answered; on loopback only by `localhost`, this host's name or a number, so that no foreign page reads them.

The broker serves what it knows of every role; that is enough for the alerts and the dashboard. Figures are at most half
a second old, but for the Boss's clocks and the evaluation, which it tells after each epoch. Counters count from the
run's beginning, over restarts of the broker, except what it refused, which counts from the broker's own start. A run
that is taken back to a checkpoint takes its counters back, too: Prometheus sees a reset, and `rate()` one spike there.

`autoassist run --http-port` gives the port to its broker. `autoassist boss` and `autoassist assistant` take
`--http-port` and `--http-host`, too: there they serve what the process itself says (below), the Boss's clocks and its
loss as of now, and `process_…`, the figures that every Prometheus client library has (CPU, memory, open files). Ranks
of one host count on from the first one's port. `/healthz` is 200 while the role's line to the broker turns, whether or
not the broker answers: a role that looks for its broker is well, and must not be started again for that.

**TensorBoard.** `autoassist run … --tensorboard` draws curves into `RUN_DIR/tensorboard`, `--tensorboard DIR` on a Boss
or an Assistant into a folder of its name there; `tensorboard --logdir` shows them (`pip install
'autoassist[tensorboard]'`). A Boss draws loss, evaluation, exposed wait, mean π and staleness against steps and against
passes; an Assistant its lift, what it keeps and how far it lags against the step that it has learned through. A thread
of its own looks once a second and writes; several ranks draw a folder each.

[`deploy/prometheus`](../deploy/prometheus) has a configuration and alerts,
[`deploy/grafana`](../deploy/grafana) a dashboard. This page is made by `python -m docs.make_metrics_page`.
"""
TABLE = ("| metric | type | labels | meaning | read from |", "|---|---|---|---|---|")


def row(metric: Metric) -> str:
    """A metric's line in the table."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    fields = ", ".join(f"`{field}`" for field in metric.fields)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} | {fields} |"


def page() -> str:
    """The page's text."""
    lines = [HEAD, *TABLE, *map(row, METRICS)]
    if LEFT_OUT:
        lines += ["", "Without a metric:", "", *(f"* `{field}`: {reason}" for field, reason in LEFT_OUT.items())]
    for heading, metrics in (("On a Boss's own port", BOSS_METRICS), ("On an Assistant's own port", ASSISTANT_METRICS)):
        lines += ["", f"## {heading}", "", *TABLE, *map(row, metrics)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(page())
