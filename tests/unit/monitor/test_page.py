"""The page beside a local run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from autoassist import monitor_command, page
from autoassist.page import Page, page_is_wanted
from protocol.errors import SettingError


def test_a_run_has_a_page_where_somebody_sits_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts, tests and comparisons do not pay for one that nobody looks at."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert not page_is_wanted("auto") and page_is_wanted("on") and not page_is_wanted("off")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert page_is_wanted("auto") and not page_is_wanted("off")


def test_without_its_packages_there_is_none_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_command, "NEEDED", {"starlette": "starlette", "not_installed": "not-installed"})
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert not page_is_wanted("auto")
    with pytest.raises(SettingError, match=r"monitor needs not-installed; pip install 'autoassist\[monitor\]'"):
        page_is_wanted("on")


def announced(line: str, tmp_path: Path) -> None:
    made = Page(tmp_path, None)
    made._child.announcement = line
    made._look()
    made._look()
    made.stop()


def test_its_address_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=page.log.name):
        announced('{"page": "http://127.0.0.1:8081"}\n', tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["the run's page is at http://127.0.0.1:8081"]


def test_its_token_is_told_to_the_terminal_and_to_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger=page.log.name):
        announced('{"page": "http://127.0.0.1:8080/?token=secret"}\n', tmp_path)
    assert "secret" not in caplog.text and "http://127.0.0.1:8080/?token=secret" in capsys.readouterr().err


def test_a_page_that_fails_is_a_warning_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = Page(tmp_path / "no-such-run", None)
    made._child.arguments = ["no-such-command"]
    made.start()
    assert made._child.wait(60.0) and made._child._reader is not None
    made._child._reader.join(60.0)
    made.stop()
    assert "the run has no page: no command 'no-such-command'" in caplog.text
