"""``autoassist report``: one file that loads nothing, says what happened, and of a damaged run what is left."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import pytest

from autoassist.cli import main
from autoassist.compare_result import write_comparison
from autoassist.report import curves as curves_module
from autoassist.report.charts import Curve, bars, lines, number, ticks
from autoassist.report.curves import read_curves
from autoassist.report.markup import page, tag
from autoassist.report.sources import read_sources
from broker.store import BATCH_LOG, DATABASE, LOSS_LOG, RunStore
from tests.unit.autoassist.made_up import comparison_of
from tests.unit.autoassist.report_runs import PI, STEPS, SUSPECT, WRITTEN, write_run

VOID = {"meta", "br", "hr", "img", "link", "input"}
FETCHING = {"src", "href", "xlink:href", "data", "srcset", "poster", "action", "background", "formaction"}


class Document(html.parser.HTMLParser):
    """Checks that what is opened is closed, in order; keeps the text, and what would be fetched or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"{self.open} are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [(key, value) for key, value in attrs if key in FETCHING or key.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def reported(run_dir: Path) -> Document:
    """The page that the command makes, self-contained and well-formed."""
    assert main(["report", str(run_dir)]) == 0
    raw = (run_dir / "report.html").read_text(encoding="utf-8")
    found = Document(raw)
    assert raw.startswith("<!DOCTYPE html>") and not found.fetched
    assert not {"script", "link", "iframe", "img", "object", "embed"} & set(found.tags)
    assert not re.search(r"url\(|@import|refresh", raw) and "default-src 'none'" in raw
    return found


def test_the_page_tells_of_a_finished_run(tmp_path: Path) -> None:
    found = reported(write_run(tmp_path / "run"))
    for heading in ("At a glance", "Curves", "Epochs", "Faults met", "Settings of the run", "Versions"):
        assert heading in found.words, heading
    for chart in ("test_accuracy against Boss passes", "Mean loss", "Kept of what was offered", "Staleness"):
        assert chart in found.words, chart
    assert "What could not be read" not in found.text


def test_figures_are_those_of_the_report_that_was_written(tmp_path: Path) -> None:
    found = reported(write_run(tmp_path / "run"))
    assert "0 40 32 80.0% 20.0% 0.5000 40 1.00 0.100" in found.text and f"python {WRITTEN}" in found.text


def test_an_unfinished_run_is_told_from_its_store(tmp_path: Path) -> None:
    """Killed before its first report: nothing but the broker's rows and logs."""
    found = reported(write_run(tmp_path / "run", reported=False, ended=""))
    assert "The run has not ended, or was killed" in found.text and "What could not be read" not in found.text
    assert "0 40 32 80.0% 20.0% 0.5000 40 1.00 0.100" in found.text
    assert "batch_size 4 64" in found.text  # the setting, and its default, from which it differs


def test_faults_are_told_in_words(tmp_path: Path) -> None:
    found = reported(write_run(tmp_path / "run", reported=False))
    for words in (
        "Taken back to a checkpoint 1",
        "boss-0 joined anew 1",
        "Steps off the plan 2 no broker answered",
        "Losses that never came 6",
        "assistant-0 joined anew 1",
        "assistant-0 held windows too long 3",
        "urgent 1 few batches were left",
    ):
        assert words in found.text, words


def test_what_the_roles_warned_of_is_there_once_with_its_number(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    (run_dir / "logs").mkdir()
    assert "hold no warning and no error" in reported(run_dir).text
    line = "12:00:00 autoassist.boss: WARNING: the disk is <b>slow</b>\n"
    (run_dir / "logs" / "boss-0.log").write_text(f"{line}12:00:01 autoassist.boss: epoch 0\n{line}error: it is full\n")
    text = reported(run_dir).text
    assert "boss-0 WARNING the disk is <b>slow</b> 2" in text and "boss-0 ERROR it is full 1" in text


def test_instances_that_were_set_aside_come_with_what_they_lost(tmp_path: Path) -> None:
    found = reported(write_run(tmp_path / "run", reported=False))
    latest = "  ".join(str(8 + step) for step in range(STEPS - 12, STEPS)).replace("  ", " ")
    assert f"{SUSPECT} {STEPS} 21.5 27 {latest}" in found.text


HOSTILE = "</title><script>alert(1)</script>\x00<img src=http://127.0.0.1/x>"


def test_no_name_and_no_log_line_can_put_anything_into_the_page(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", workload=HOSTILE, reported=False)
    (run_dir / "logs").mkdir()
    (run_dir / "logs" / "boss-0.log").write_text(f"12:00:00 autoassist.boss: WARNING: {HOSTILE}\n")
    found = reported(run_dir)
    assert "alert(1)" in found.text and "\x00" not in found.text


def test_a_log_that_was_cut_off_costs_its_own_curves_only(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", reported=False)
    path = run_dir / LOSS_LOG
    path.write_bytes(path.read_bytes()[:100])
    found = reported(run_dir)
    assert "The run store cannot be read whole; what can be is shown" in found.text and LOSS_LOG in found.text
    assert "Staleness" in found.words and "Mean loss" not in found.words and "Epochs" in found.words


def test_a_damaged_record_ends_its_curve_and_is_named(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", reported=False)
    size = (run_dir / BATCH_LOG).stat().st_size // STEPS
    content = bytearray((run_dir / BATCH_LOG).read_bytes())
    content[10 * size + 8 : 10 * size + 40] = b"\xff" * 32
    (run_dir / BATCH_LOG).write_bytes(content)
    found = reported(run_dir)
    assert f"The curves end where {BATCH_LOG} is damaged" in found.text and "record 10" in found.text
    assert "Mean loss" in found.words and "Staleness" in found.words


def test_without_its_store_a_run_is_told_from_its_report(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
        (run_dir / name).unlink(missing_ok=True)
    found = reported(run_dir)
    assert f"The run store ({DATABASE}) is missing" in found.text
    assert "test_accuracy against Boss passes" in found.words and "At a glance" in found.words


@pytest.mark.parametrize("content", [b"", b"{", b'{"status": 3}', b"\xff\x00"])
def test_a_report_that_is_none_is_named_and_the_store_tells_instead(tmp_path: Path, content: bytes) -> None:
    run_dir = write_run(tmp_path / "run", ended="finished")
    (run_dir / "report.json").write_bytes(content)
    found = reported(run_dir)
    assert "report.json cannot be read, the figures are the run store's instead" in found.text
    assert "0 40 32 80.0%" in found.text


def test_a_store_that_is_no_database_is_named(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", reported=False)
    (run_dir / DATABASE).write_bytes(b"nonsense" * 100)
    found = reported(run_dir)
    assert f"{run_dir} is damaged: file is not a database; choose another" in found.text
    assert "No figures are there" in found.text


def test_a_run_to_which_no_boss_has_come_says_so(tmp_path: Path) -> None:
    RunStore(tmp_path / "run").close()
    assert "no Boss has come to this run" in reported(tmp_path / "run").text


def test_a_directory_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, words in ((tmp_path, "holds no run"), (tmp_path / "nowhere", "is no directory")):
        assert main(["report", str(path)]) == 2
        assert f"error: {path}: {words}" in capsys.readouterr().err


def test_a_copy_that_cannot_be_written_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = write_run(tmp_path / "run")
    (run_dir / "report.html").mkdir()
    assert main(["report", str(run_dir)]) == 1
    assert "give --output a file that can be written" in capsys.readouterr().err
    assert not list(run_dir.glob(".report*"))
    assert main(["report", str(run_dir), "--output", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")


def test_a_comparison_is_a_page_too(tmp_path: Path) -> None:
    comparison = comparison_of([])
    write_comparison(comparison, tmp_path)
    found = reported(tmp_path)
    assert comparison.verdict.sentence in found.text and "does selection pay?" in found.text


def test_a_long_log_is_sampled_and_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = write_run(tmp_path / "run")
    monkeypatch.setattr(curves_module, "MOST_RECORDS", 5)
    assert "every 4th record is drawn" in reported(run_dir).text
    assert [step for step, _ in read_sources(run_dir).curves.loss] == [0, 4, 8, 12, 16]


def test_the_loss_of_what_was_offered_weighs_each_by_its_probability(tmp_path: Path) -> None:
    store = RunStore(write_run(tmp_path / "run"), writable=False)
    curves = read_curves(store.losses, None, None, [], [])
    store.close()
    assert len(curves.loss) == STEPS and curves.trained_loss[0] == (0.0, pytest.approx((8.0 + 3 * 1.0) / 4))
    weights = 1 / PI
    assert curves.loss[0] == (0.0, pytest.approx((8.0 * weights[0] + weights[1:].sum()) / weights.sum()))


def test_curves_of_windows_lie_at_their_epochs(tmp_path: Path) -> None:
    curves = read_sources(write_run(tmp_path / "run")).curves
    assert curves.kept[0] == (0.0, 1.0) and curves.kept[5] == (1.0, 0.75)
    assert curves.unfiltered[0] == (0.0, 1.0) and curves.unfiltered[1][1] == 0.0
    assert {value for _, value in curves.staleness} == {7.0}
    assert curves.keep_probabilities.sum() == 4 * STEPS and (curves.keep_probabilities > 0).sum() == 4


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 7e6), (0.91, 0.9104), (1e-9, 2e-9), (-5.0, -4.0)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7 and low - 1e-12 <= found[0] and found[-1] <= high + 1e-9 * abs(high)


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0.0, 0.25, 1234.0, 12000.0, 3.4e6, 2e9, -12000.0)] == [
        *("0", "0.25", "1234", "12k", "3.4M", "2G", "-12k"),
    ]


def test_a_chart_needs_points_and_breaks_where_one_is_missing() -> None:
    nan = float("nan")
    assert lines("t", "x", "y", [Curve(name="a", points=[])]) is None
    assert lines("t", "x", "y", [Curve(name="a", points=[(0.0, nan)])]) is None
    assert bars("t", "x", "y", [(0.0, 1.0, 0.0)]) is None
    drawn = lines("t", "x", "y", [Curve(name="a", points=[(0.0, 1.0), (1.0, 2.0), (2.0, nan), (3.0, 1.0), (4.0, 5.0)])])
    assert drawn is not None and len(list(drawn.iter("polyline"))) == 2 and len(list(drawn.iter("circle"))) == 4
    assert lines("t", "x", "y", [Curve(name="a", points=[(1.0, 5.0)])]) is not None  # one point, no span


def test_what_no_document_may_hold_is_left_out() -> None:
    raw = page("t", "p { }", [tag("p", "a\x00b\ud800c", " & d", tag("b", "<e>"), "f")]).decode()
    assert "a�b�c &amp; d<b>&lt;e&gt;</b>f" in raw
