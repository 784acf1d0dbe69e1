"""Names that others give are text in the terminal: neither rich's markup nor control characters."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console, RenderableType

from autoassist.compare_table import print_comparison
from autoassist.compare_verdict import judge
from autoassist.doctor.command import line
from autoassist.doctor.finding import warning
from autoassist.live import render
from autoassist.summary import COMMAND_FILE, print_summary
from autoassist.terminal import plain
from autoassist.top import Rates, TopCommand
from broker.addresses import write_addresses
from protocol.report import MetricReport, Report, encode_report
from protocol.statistics import PeerStatistics, RunStatistics
from tests.unit.autoassist.made_up import GAIN, comparison_of, report_of
from tests.unit.autoassist.test_compare_verdict import cells

NAMES = {
    "loss [/token]": "loss [/token]",  # rich refuses it: it closes nothing
    "loss [nats] :fire:": "loss [nats] :fire:",
    "a\x1b]0;b\x07\x9b2J\r\nc\x85\u202ed\udcff": "a�]0;b��2J c��d�",
}
"""What others say, and what is to stand in the terminal."""

names = pytest.mark.parametrize(("name", "expected"), NAMES.items(), ids=["closing", "emoji", "control"])


def drawn(*renderables: RenderableType) -> str:
    """As in a terminal, but without styles and cursor: every control character in it has come from a name."""
    stream = io.StringIO()
    console = Console(file=stream, width=160, force_terminal=True, color_system=None)
    for one in renderables:
        console.print(one)
    return checked(stream.getvalue())


def checked(text: str) -> str:
    assert not [c for c in text if not c.isprintable() and c not in "\n "], ascii(text)
    return text


def report(metric: str) -> Report:
    made = report_of("autoassist", status="stopped")
    return replace(
        made, workload=f"mine.py:{metric.replace('/', '_')}", metric=MetricReport(name=metric, value=0.5, history=[])
    )


@names
def test_the_summary_shows_metric_workload_directory_and_warnings_as_they_are_named(
    capsys: pytest.CaptureFixture[str], name: str, expected: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / name
    if "\udcff" not in name:  # such a directory cannot be made everywhere
        run_dir.mkdir(parents=True)
        (run_dir / COMMAND_FILE).write_text("{}")
    print_summary(report(name), run_dir, [f"{name} is odd"] * 20)
    text = checked(capsys.readouterr().out)
    assert f"{expected}  " in text and f"{expected.replace('/', '_')} · autoassist" in text
    shown_dir = f"{tmp_path}/{expected}"
    assert f"report: {shown_dir}/report.json\n" in text and f"8 more warnings: {shown_dir}/logs\n" in text
    assert text.count(f"warning: {expected} is odd\n") == 12
    assert "\udcff" in name or f"autoassist run --resume {shown_dir}\n" in text


@names
def test_the_live_view_shows_metric_policy_and_peers_as_they_are_named(name: str, expected: str) -> None:
    peers = [
        PeerStatistics(name=name, role="assistant", silent_s=0.1),
        PeerStatistics(name=name, role="boss", silent_s=9.0),
    ]
    said = {"metric_name": name, "metric_value": 0.5, "peers": peers, "ended": f"end {name}"}
    text = drawn(render(RunStatistics(policy=f"policy {name}", **said)))
    for told in (f"{expected} 0.5000", f"{expected} silent 9 s", f"policy {expected} ·", f"end {expected}"):
        assert told in text


@names
def test_top_shows_peers_and_causes_as_they_are_named(name: str, expected: str) -> None:
    rates = Rates()
    for windows, now in ((10, 5.0), (30, 7.0)):
        peer = PeerStatistics(name=name, role="assistant", silent_s=0.1, windows=windows)
        refused = {"refused": {f"cause {name}": 1}, "refused_from": {f"peer {name}": 3}}
        table = rates.add(RunStatistics(policy="autoassist", peers=[peer], **refused), now)
    text = drawn(table)
    for told in (f"windows/s of {expected}", f"refused from peer {expected}", f"cause {expected}"):
        assert told in text


def test_top_shows_a_run_that_is_over_whose_metric_closes_a_tag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its store cannot be read; its report says ``loss [/token]``."""
    run_dir = tmp_path / "[a"  # a path of its own: [/…] would be two directories
    run_dir.mkdir()
    write_addresses(run_dir, address="tcp://127.0.0.1:9", statistics="tcp://127.0.0.1:9")
    (run_dir / "report.json").write_bytes(encode_report(replace(report("loss [/token]"), status="a\x1b[2J")))
    assert TopCommand(target=str(run_dir)).execute() == 0
    text = checked(capsys.readouterr().out)
    assert "loss [/token]" in text and "the run is over (a�[2J); this is its summary:\n" in text


@names
def test_the_table_of_a_comparison_shows_metric_and_model_as_they_are_named(name: str, expected: str) -> None:
    found = cells(random_drop=0.930, autoassist=0.955)
    verdict = judge(found, GAIN, workload="mine", metric_name=name, seeds=3)
    comparison = replace(comparison_of(found), metric_name=name, model=f"model {name}", verdict=verdict)
    stream = io.StringIO()
    print_comparison(comparison, Console(file=stream, width=200, force_terminal=True, color_system=None))
    text = checked(stream.getvalue())
    for told in (
        f" model {expected} ·",
        f"for the same {expected} (95",
        f" {expected} ",
        f"reaches {expected} 0.9550,",
    ):
        assert told in text
    assert len([row for row in text.splitlines() if f" {expected} " in row and row.startswith("policy")]) == 1


@names
def test_the_doctor_shows_what_it_has_found_as_it_is_named(name: str, expected: str) -> None:
    text = drawn(line(warning("disk", f"{name} is full", f"empty {name}")))
    assert f"warning disk: {expected} is full\n        → empty {expected}\n" in text


def test_what_can_be_seen_stays_as_it_is() -> None:
    assert plain("Verlust → ½ 损失 עברית 👩\u200d🔬") == "Verlust → ½ 损失 עברית 👩\u200d🔬"
