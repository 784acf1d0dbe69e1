"""What the user reads: live view, summary, and the report's schema."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest
import zmq
from rich.console import Console

from autoassist import live
from autoassist.export import segments_between
from autoassist.live import LiveView, render
from autoassist.remembered import COMMAND_FILE
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


def text_of(renderable: object, width: int = 120) -> str:
    console = Console(width=width, record=True)
    console.print(renderable)
    return console.export_text()


def test_the_live_view_shows_what_matters() -> None:
    peer = PeerStatistics(name="assistant-0", role="assistant", silent_s=0.1, leases=1, windows=42, lift=0.5)
    statistics = RunStatistics(policy="autoassist", epochs=3, epoch=1, epoch_offered=100, epoch_kept=40, peers=[peer])
    text = text_of(render(decode_statistics(encode_statistics(statistics))))
    assert "40.0%" in text and "epoch 2/3" in text and "assistant-0" in text and "42" in text


def test_the_live_view_fits_eighty_columns_with_each_thing_on_its_own_line() -> None:
    peers = [
        PeerStatistics(name="assistant-0", role="assistant", silent_s=0.1, leases=2, windows=123456, lift=0.5),
        PeerStatistics(name="boss-0", role="boss", silent_s=0.1, cpu_percent=199, rss_bytes=12_345_000_000),
        PeerStatistics(name="boss-1", role="boss", silent_s=0.1),
    ]
    statistics = RunStatistics(
        **{"policy": "autoassist", "epochs": 90, "epoch": 41, "epoch_offered": 1000, "epoch_kept": 400, "n": 60000},
        **{"progress": 0.5, "trained_steps": 1234567, "instances_trained": 123456789, "ready_batches": 12},
        **{"stock_instances": 1048576, "staleness_p50": 20.0, "staleness_p99": 60.0},
        **{"staleness_max": 95, "staleness_bound": 96},
        **{"metric_name": "test_accuracy", "metric_value": 0.91234, "exposed_wait_s": 1.0, "wall_s": 1000.0},
        **{"values_dropped": 123456, "broker_cpu_percent": 18.0, "broker_rss_bytes": 87_000_000},
        peers=peers,
    )
    peers[0].credits, peers[0].offered, peers[0].kept, peers[1].credits = 4, 300, 200, 16
    lines = text_of(render(statistics), width=80).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert next(line for line in lines if "boss-1" in line).split()[1] == "-", "another rank than the first grants none"
    labels = [
        *("kept this epoch", "unfiltered", "Boss passes", "exposed wait", "ready at the Boss", "stock"),
        *("staleness", "metric", "test_accuracy 0.9123", "p50 20, p99 60, max 95, bound 96", "123456789"),
        "1048576 instances",
        *(
            "role",
            "credit",
            "kept",
            "age",
            "2/4",
            "12/16",
            "67%",
            "windows",
            "backlog",
            "learned",
            "lift",
            "cpu",
            "memory",
            "assistant-0",
            "123456",
        ),
        *("123456 losses", "0 inputs", "broker", "18 %", "87 MB", "12345 MB", "0.500 ± 0.000", "epoch 42/90"),
    ]
    for label in labels:
        assert any(label in line for line in lines), f"{label!r} is cut:\n" + "\n".join(lines)
    bar = next(line for line in lines if "━" in line)
    assert set(bar.strip()) <= {"━", "╸", "╺"}, bar


def test_the_live_view_shows_the_padding_where_batches_are_cut_by_tokens() -> None:
    by_number = RunStatistics(policy="uniform", epochs=3)
    assert "padding" not in text_of(render(by_number))
    by_tokens = msgspec.structs.replace(by_number, tokens=900, padded_tokens=1000)
    assert "10.0%" in text_of(render(by_tokens))


def test_the_live_view_says_how_the_run_has_ended() -> None:
    assert "step 7 · finished" in text_of(render(RunStatistics(policy="uniform", trained_steps=7, ended="finished")))


def test_the_last_frame_shows_the_last_that_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    """The broker's last words lie in the socket when the view is told to stop."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.bind("tcp://127.0.0.1:*")
        view = LiveView(enabled=True)
        view.start(publisher.getsockopt_string(zmq.LAST_ENDPOINT))
        assert publisher.poll(30_000) and publisher.recv() == b"\x01"  # it hears
        for ended in ("", "", "finished"):
            publisher.send(encode_statistics(RunStatistics(policy="uniform", trained_steps=7, ended=ended)))
        assert publisher.setsockopt(zmq.LINGER, 1000) is None
        publisher.close()
        context.term()  # all of it has left
        view.stop()
    assert "step 7 · finished" in capsys.readouterr().out


def test_a_broker_that_went_without_a_word_does_not_hold_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LAST_WORDS_S", 600.0)
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.bind("tcp://127.0.0.1:*")
        view = LiveView(enabled=True)
        view.start(publisher.getsockopt_string(zmq.LAST_ENDPOINT))
        assert publisher.poll(30_000) and publisher.recv() == b"\x01"  # it hears
        publisher.close(linger=0)
        context.term()
        stopping = threading.Thread(target=view.stop, daemon=True)
        stopping.start()
        stopping.join(30.0)
        assert not stopping.is_alive()


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


def changed(**fields: object) -> Report:
    """The report with other values; a dict changes fields of a part."""
    merged = {k: {**REPORT[k], **v} if isinstance(v, dict) else v for k, v in fields.items()}  # type: ignore[dict-item]
    return msgspec.convert({**REPORT, **merged}, Report)


EPOCHS = [{"epoch": i, "offered": 50, "kept": 40, "kept_fraction": 0.8, "unfiltered_fraction": 0.0} for i in range(2)]


def test_the_summary_says_how_many_each_assistant_has_looked_at_and_nothing_where_none_was_to() -> None:
    counts = dict.fromkeys(("windows", "offered", "kept", "starts", "leases_expired", "records_dropped"), 0)
    counts |= {f"selections_{name}": 0 for name in ("late", "stale", "refused")}
    looked = [{"name": f"a{i}", **counts, "figures": {"instances_looked_at": 120.0 * i}} for i in range(2)]
    said = dict(rows(changed(assistants=looked)))
    assert said["looked at before they were offered"] == "0, 120"
    assert dict(rows(changed(assistants=looked[:1])))["looked at before they were offered"] == "0"
    assert "looked at before they were offered" not in dict(rows(changed(assistants=[{**looked[0], "figures": {}}])))


def test_a_stopped_run_is_no_saving() -> None:
    report = changed(status="stopped", epochs=2000, selection={"epochs": EPOCHS})
    assert verdict(report) == (
        "The run was stopped after 150 instances, in epoch 2 of 2000: its figures are those of a part."
    )
    assert "failed after 150 instances" in verdict(changed(status="failed"))


@pytest.mark.parametrize(("status", "began"), [("stopped", True), ("stopped", False), ("finished", True)])
def test_the_summary_of_a_stopped_run_says_how_to_go_on_where_run_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str, began: bool
) -> None:
    """Roles that somebody has started one by one are not resumed by it."""
    if began:
        (tmp_path / COMMAND_FILE).write_text("{}")
    print_summary(changed(status=status), tmp_path)
    expected = status == "stopped" and began
    assert (f"go on: autoassist run --resume {tmp_path}" in capsys.readouterr().out) == expected


def test_a_budget_in_instances_is_compared_with_what_was_offered() -> None:
    """There are no epochs to compare with: 150 passes went through two epochs."""
    budget = {"epochs": 0, "boss_instances_budget": 150}
    text = verdict(changed(**budget))
    assert "150 passes went through 2.0 epochs, 25.0% of them left out" in text
    assert "with nothing left out they reach 1.5" in text and "--policy uniform" in text
    stopped = verdict(changed(**budget, status="stopped", boss={"instances": 70}))
    assert "stopped after 70 of 150 instances" in stopped


def test_extra_passes_off_the_plan_are_no_saving() -> None:
    assert "10.0% more instances" in verdict(changed(boss={"instances": 220, "off_plan_instances": 70}))


def test_a_uniform_run_left_nothing_out() -> None:
    assert verdict(changed(policy="uniform")).startswith("Nothing was left out")
    assert "was stopped" in verdict(changed(policy="uniform", status="stopped"))
    one_epoch = {"offered": 100, "kept": 100, "kept_fraction": 1.0}
    assert verdict(changed(epochs=1, selection=one_epoch, boss={"instances": 100})).startswith("Nothing was left out")


def test_hundreds_of_epochs_are_bars_between_the_first_and_the_last() -> None:
    def told(shares: list[float]) -> str:
        epochs = [EPOCHS[0] | {"epoch": i, "kept_fraction": share} for i, share in enumerate(shares)]
        return dict(rows(changed(selection={"epochs": epochs})))["kept by epoch"]

    assert told([1.0, 0.5, 0.25]) == "100%, 50%, 25%"
    assert told([1.0] * 20 + [0.5] * 99 + [0.3] + [1.0] * 120) == (
        "100% ██▅▅▅▅▅▅▅▅▅▄████████████ 100%\nof 240 epochs; least 30%, in epoch 119"
    )
    assert told([0.8] * 13).splitlines()[0] == "80% ▇▇▇▇▇▇▇▇▇▇▇▇▇ 80%"


def test_warnings_are_repeated_after_the_summary_but_not_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(msgspec.convert(REPORT, Report), Path("runs/x"), [f"[boss-0] trouble {i}" for i in range(20)])
    said = capsys.readouterr().out.split("report.json")[1].splitlines()[1:]
    assert said[0] == "warning: [boss-0] trouble 0" and len(said) == 13
    assert said[-1] == "8 more warnings: runs/x/logs"


def test_segments_are_split_where_a_ranks_part_begins_and_ends() -> None:
    segments = [Segment(count=3, epoch=0, window=1), Segment(count=5, epoch=1, window=2, learned_through=4)]
    parts = segments_between(segments, 2, 6)
    assert [(s.count, s.window, s.learned_through) for s in parts] == [(1, 1, None), (3, 2, 4)]
