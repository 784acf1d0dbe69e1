"""Warnings are seen: labelled, collected once each, and other libraries keep quiet."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from autoassist.cli import _level_in, main
from autoassist.notices import Notices
from protocol.logs import JsonFormatter, LineFormatter, complaint_in


def line(level: int, text: str) -> str:
    """What a role says."""
    record = logging.LogRecord("autoassist.workloads", level, __file__, 1, text, None, None)
    return LineFormatter().format(record)


def test_a_warning_of_a_role_is_kept_once_whoever_says_it() -> None:
    notices = Notices()
    assert notices.hears("boss-0", line(logging.WARNING, "only a small set"))
    assert not notices.hears("assistant-0", line(logging.WARNING, "only a small set"))
    assert not notices.hears("boss-0", line(logging.INFO, "epoch 0: WARNING: is part of a word"))
    assert not notices.hears("boss-0", "WARNING: said by somebody else")
    assert notices.lines == ["[boss-0] only a small set"]


def test_a_warning_of_the_launcher_is_kept_too_and_not_said_again_for_a_role() -> None:
    log = logging.getLogger("autoassist.workloads")
    with Notices() as notices:
        log.warning("only a %s set", "small")
        log.info("epoch 0")
    log.warning("after the run")
    assert not notices.hears("boss-0", line(logging.WARNING, "only a small set"))
    assert notices.lines == ["only a small set"]


def test_only_our_own_words_are_said_below_a_warning() -> None:
    program = (
        "import logging; from autoassist.notices import set_up_logging; set_up_logging({});"
        "logging.getLogger('autoassist.boss').info('ours'); logging.getLogger('autoassist.boss').debug('our detail');"
        "logging.getLogger('chatty').info('theirs'); logging.getLogger('chatty').warning('trouble')"
    )

    def said(options: str) -> list[str]:
        words = [sys.executable, "-c", program.format(options)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        return [text.partition(" ")[2] for text in done.stderr.splitlines()]

    assert said("") == ["autoassist.boss: ours", "chatty: WARNING: trouble"]
    assert said("debug=True") == ["autoassist.boss: ours", "autoassist.boss: our detail", "chatty: WARNING: trouble"]
    assert said("level='warning'") == ["chatty: WARNING: trouble"]


def test_the_level_is_taken_from_the_words_before_they_are_parsed() -> None:
    assert _level_in(["run", "digits"]) == "info"
    assert _level_in(["run", "--log-level", "error", "digits"]) == _level_in(["run", "--log-level=error"]) == "error"
    assert _level_in(["run", "--log-level", "nonsense"]) == _level_in(["run", "--log-level"]) == "info"


def test_what_ends_a_process_is_json_too(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    assert main(["export", "nowhere", "--log-json"]) == 2
    (record,) = caplog.records
    assert "error: " not in capsys.readouterr().err
    assert "nowhere holds no run" in record.getMessage() and complaint_in(JsonFormatter().format(record)) == (
        *("ERROR", record.getMessage()),
        True,
    )
