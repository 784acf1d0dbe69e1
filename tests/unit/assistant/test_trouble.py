"""A disk that stays full is told once, then counted, then told to be over."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from assistant.journal import Journal
from tests.unit.assistant.test_tables import N
from tests.unit.assistant.test_worker import joined, learn


def said(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if words in r.getMessage()]


def test_a_journal_on_a_full_disk_says_so_once_then_counts_then_says_that_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At each checkpoint it is tried anew, and its file has another name."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.INFO), joined(tmp_path, 0) as assistant:
        monkeypatch.setattr("assistant.journal.os.write", full)
        for checkpoint in range(3):
            assistant._save(1)
            learn(assistant, range(2 * checkpoint, 2 * checkpoint + 2))
        assert len(said(caplog, "No space left")) == 1 and not said(caplog, "over, after")
        monkeypatch.undo()
        for checkpoint in range(3, 5):
            assistant._save(1)
            learn(assistant, range(2 * checkpoint, 2 * checkpoint + 2))
        assistant._save(1)
    assert [line.partition(":")[0] for line in said(caplog, "No space left")[1:]] == ["over, after 2 times"]


def test_an_assistant_that_cannot_save_says_so_once_then_counts_then_says_that_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.INFO), joined(tmp_path, N + 1) as assistant:
        monkeypatch.setattr("assistant.worker.AssistantCheckpoint.write", full)
        for position in range(3):
            learn(assistant, range(position, position + 1))
            assistant._save(1)
        assert len(said(caplog, "No space left")) == 1
        monkeypatch.undo()
        learn(assistant, range(3, 4))
        assistant._save(1)
        assert said(caplog, "over, after 3 times: ")


def test_a_checkpoint_that_could_not_be_prepared_does_not_keep_the_next_ones_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was closed is not closed once more: by then it may be a socket's number."""
    journal = Journal(tmp_path / "a")
    journal.prepare()

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.open", full)
        with pytest.raises(OSError, match="No space left"):
            journal.prepare()
    assert journal.path(journal.prepare()).exists()
    journal.close()


def test_what_was_not_over_at_the_end_is_told_with_its_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "a")
    for times in (1, 3):
        for _ in range(times):
            journal.trouble.met("it is full", "nothing is kept")
        journal.trouble.ends()
    assert len(said(caplog, "nothing is kept")) == 2 and said(caplog, "in all") == ["3 times in all: it is full"]
