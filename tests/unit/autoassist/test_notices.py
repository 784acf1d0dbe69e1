"""Warnings are seen: labelled, collected once each, and other libraries keep quiet."""

from __future__ import annotations

import logging
import subprocess
import sys

from autoassist.notices import LineFormatter, Notices


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
        "import logging; from autoassist.notices import set_up_logging; set_up_logging(debug={});"
        "logging.getLogger('autoassist.boss').info('ours'); logging.getLogger('autoassist.boss').debug('our detail');"
        "logging.getLogger('chatty').info('theirs'); logging.getLogger('chatty').warning('trouble')"
    )

    def said(debug: bool) -> list[str]:
        words = [sys.executable, "-c", program.format(debug)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        return [text.partition(" ")[2] for text in done.stderr.splitlines()]

    assert said(debug=False) == ["autoassist.boss: ours", "chatty: WARNING: trouble"]
    assert said(debug=True) == ["autoassist.boss: ours", "autoassist.boss: our detail", "chatty: WARNING: trouble"]
