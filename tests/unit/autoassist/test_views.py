"""What the user reads: live view, summary, and the report's schema."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from autoassist.export import segments_between
from autoassist.live import render
from autoassist.summary import print_summary, rows, verdict
from protocol.errors import DataError
from protocol.messages import Segment
from protocol.report import Report, encode_report, read_report, schema
from protocol.statistics import PeerStatistics, RunStatistics, decode_statistics, encode_statistics

REPORT = {
    "status": "finished",
    "run_id": "1",
    "workload": "digits",
    "policy": "autoassist",
    "seed": 1,
    "epochs": 2,
    "boss_instances_budget": 0,
    "world_size": 1,
    "dataset_id": "digits",
    "n": 100,
    "settings": {},
    "boss": {
        **{"steps": 10, "instances": 150, "wall_s": 2.0, "train_s": 1.9, "exposed_wait_s": 0.1},
        **{"exposed_wait_fraction": 0.05, "startup_wait_s": 0.0, "evaluation_s": 0.0},
        **{"off_plan_steps": 0, "off_plan_instances": 0},
        **{"report_us_p50": 5.0, "report_us_p99": 9.0},
    },
    "selection": {
        **{"offered": 200, "kept": 150, "kept_fraction": 0.75, "unfiltered_fraction": 0.1},
        **{"staleness_steps": {"p50": 4.0, "p99": 8.0, "max": 9, "bound": 96}, "reopened_windows": 0},
        **{"epochs": [], "unfiltered_windows": {}},
    },
    "loss_reports": {"sent": 10, "delivered": 10, "values_dropped": 0, "values_not_finite": 0},
    "metric": {"name": "accuracy", "value": 0.5, "history": [[0, 100, 1.0, 0.4]]},
    "assistants": [],
    "refused_input": {},
    "versions": {},
}


def text_of(renderable: object) -> str:
    console = Console(width=120, record=True)
    console.print(renderable)
    return console.export_text()


def test_the_live_view_shows_what_matters() -> None:
    peer = PeerStatistics(name="assistant-0", role="assistant", silent_s=0.1, leases=1, windows=42, lift=0.5)
    statistics = RunStatistics(policy="autoassist", epochs=3, epoch=1, epoch_offered=100, epoch_kept=40, peers=[peer])
    text = text_of(render(decode_statistics(encode_statistics(statistics))))
    assert "40.0%" in text and "epoch 2/3" in text and "assistant-0" in text and "42" in text


def test_the_live_view_waits_for_a_boss() -> None:
    assert "waiting for the Boss" in text_of(render(RunStatistics()))


def test_a_report_is_read_back_and_matches_its_schema(tmp_path: Path) -> None:
    report = msgspec.convert(REPORT, Report)
    (tmp_path / "report.json").write_bytes(encode_report(report))
    assert read_report(tmp_path) == report
    required = schema()["$defs"]["Report"]["required"]
    for name in ("workload", "policy", "seed", "epochs", "world_size", "boss", "selection", "loss_reports", "metric"):
        assert name in required


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"status": 3}')
    with pytest.raises(DataError, match=r"report\.json"):
        read_report(tmp_path)


def test_the_summary_says_what_was_saved_and_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    report = msgspec.convert(REPORT, Report)
    print_summary(report, Path("runs/x"))
    assert "5.00%" in dict(rows(report))["exposed wait"]
    assert "25.0% fewer" in verdict(report) and "--policy uniform" in verdict(report)
    assert "runs/x/report.json" in capsys.readouterr().out


def test_segments_are_split_where_a_ranks_part_begins_and_ends() -> None:
    segments = [Segment(count=3, epoch=0, window=1), Segment(count=5, epoch=1, window=2, learned_through=4)]
    parts = segments_between(segments, 2, 6)
    assert [(s.count, s.window, s.learned_through) for s in parts] == [(1, 1, None), (3, 2, 4)]
