"""How roles speak: for people and for machines, each line with run, role, peer and step, and read back alike."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import logs
from protocol.logs import JsonFormatter, LineFormatter, LogFile, complaint_in, joined, json_in, speak_as

MEMBERS = ["time", "level", "logger", "run", "role", "peer", "step", "message"]


@pytest.fixture(autouse=True)
def nobody_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins before any role has said who it is."""
    monkeypatch.setattr(logs, "_speaker", logs._Speaker())


def record(level: int, text: str, *values: object, name: str = "autoassist.boss", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord(name, level, __file__, 1, text, values, None)
    made.__dict__.update(extra)
    return made


def boss_at_step(step: int | None) -> None:
    speak_as("boss", "boss-0", lambda: step)
    joined("1f2e3d4c5b6a")


def test_a_line_for_people_says_who_speaks_of_which_run_at_which_step() -> None:
    boss_at_step(120)
    line = LineFormatter().format(record(logging.INFO, "epoch %d", 3))
    assert line.partition(" ")[2] == "autoassist.boss [boss-0 1f2e3d4c @120]: epoch 3"
    boss_at_step(None)
    assert "[boss-0 1f2e3d4c]: " in LineFormatter().format(record(logging.INFO, "x"))
    assert "[" not in LineFormatter().format(record(logging.WARNING, "x", name="chatty"))


def test_a_process_that_is_no_role_has_nothing_to_say_of_itself() -> None:
    assert LineFormatter().format(record(logging.INFO, "x")).partition(" ")[2] == "autoassist.boss: x"
    said = json.loads(JsonFormatter().format(record(logging.INFO, "x")))
    assert list(said) == MEMBERS and [said[name] for name in ("run", "role", "peer", "step")] == [None] * 4


def test_a_line_for_machines_has_the_same_members_whoever_speaks() -> None:
    boss_at_step(0)
    said = json.loads(JsonFormatter().format(record(logging.WARNING, 'a "b"\nc %s', "ä")))
    assert list(said) == MEMBERS
    assert said | {"time": ""} == {
        **{"time": "", "level": "warning", "logger": "autoassist.boss", "run": "1f2e3d4c5b6a", "role": "boss"},
        **{"peer": "boss-0", "step": 0, "message": 'a "b"\nc ä'},
    }
    assert said["time"].endswith("Z") and len(said["time"]) == len("2026-11-25T20:00:00.000Z")


def test_json_lines_are_one_line_each_with_the_traceback_in_them() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made = record(logging.ERROR, "oh", exc_info=sys.exc_info())
    line = JsonFormatter().format(made)
    assert "\n" not in line and "ValueError: two\nlines" in json.loads(line)["traceback"]


@pytest.mark.parametrize("formatter", [LineFormatter(), JsonFormatter()])
def test_a_complaint_is_read_back_in_either_form(formatter: logging.Formatter) -> None:
    boss_at_step(7)
    found = complaint_in(formatter.format(record(logging.WARNING, "only %s: a small set", "x")))
    assert found == ("WARNING", "only x: a small set", False)
    assert complaint_in(formatter.format(record(logging.INFO, "epoch 0: WARNING: is part of it"))) is None


def test_what_ends_a_process_is_known_in_either_form() -> None:
    assert complaint_in("error: the disk is full") == ("ERROR", "the disk is full", True)
    line = JsonFormatter().format(record(logging.ERROR, "the disk is full", ends=True))
    assert complaint_in(line) == ("ERROR", "the disk is full", True)


@pytest.mark.parametrize(
    "line", ["", "{", '{"time": 1}', '{"time": ', "[1]", '{"time": "x", "level": 3}', "WARNING: x"]
)
def test_lines_of_others_are_not_taken_for_ours(line: str) -> None:
    assert complaint_in(line) is None and json_in(line) is None


def test_a_json_line_that_is_passed_on_stays_as_it_is() -> None:
    boss_at_step(7)
    line = JsonFormatter().format(record(logging.INFO, "epoch 0"))
    speak_as("run", "run")
    assert JsonFormatter().format(record(logging.INFO, "[boss-0] …", echo=line)) == line
    other = json.loads(JsonFormatter().format(record(logging.INFO, "[boss-0] %s", "Segmentation fault", echo="Segm…")))
    assert other["message"] == "[boss-0] Segmentation fault" and other["role"] == "run"


def test_a_line_for_people_that_says_who_speaks_is_passed_on_as_it_is() -> None:
    boss_at_step(7)
    line = LineFormatter().format(record(logging.INFO, "epoch 0"))
    speak_as("run", "run")
    assert LineFormatter().format(record(logging.INFO, "[boss-0] %s", line, echo=line)) == line
    other = LineFormatter().format(record(logging.INFO, "[boss-0] %s", "Segmentation fault", echo="Segmentation fault"))
    assert other.endswith("[boss-0] Segmentation fault") and " [run 1f2e3d4c]: " in other


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[logging.Logger]:
    made = logging.getLogger("autoassist.test_logs")
    made.setLevel(logging.INFO)
    handler = LogFile(tmp_path / "run.log", LineFormatter())
    made.addHandler(handler)
    yield made
    made.removeHandler(handler)
    handler.close()


def test_a_log_file_has_a_process_own_words_and_not_what_it_passes_on(logger: logging.Logger, tmp_path: Path) -> None:
    logger.warning("the broker was killed")
    logger.info("[boss-0] epoch 0", extra={"echo": "epoch 0"})
    assert (tmp_path / "run.log").read_text().splitlines()[0].endswith("WARNING: the broker was killed")
    assert len((tmp_path / "run.log").read_text().splitlines()) == 1


def test_a_log_file_that_cannot_be_written_disturbs_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogFile(tmp_path / "gone" / "run.log", LineFormatter())
    handler.handle(record(logging.INFO, "x"))
    handler.close()
    assert capsys.readouterr().err == ""
