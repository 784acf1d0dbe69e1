"""Commands within the test's own process, which has imported everything already: for those that end at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from autoassist.cli import main


@dataclass(frozen=True)
class Ended:
    """What a command left."""

    code: int
    text: str

    @property
    def said(self) -> list[str]:
        """Its lines."""
        return self.text.splitlines()

    @property
    def errors(self) -> list[str]:
        """Those that say an error."""
        return [line for line in self.said if "error:" in line]


Here = Callable[..., Ended]
"""``here(*words, cwd=folder)`` runs ``autoassist *words``."""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    def run(*words: str, cwd: Path) -> Ended:
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        said = capsys.readouterr()
        return Ended(code, said.out + said.err)

    return run
