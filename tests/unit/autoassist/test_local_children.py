"""Where the roles of a script find AutoAssist, whatever lies in the working directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoassist import children
from autoassist.children import without_cwd

HOME = Path(children.__file__).resolve().parent.parent


def test_a_clone_that_is_not_installed_is_found_behind_what_the_user_has_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), ""]))
    assert without_cwd()["PYTHONPATH"] == os.pathsep.join([str(tmp_path), str(HOME)])
    monkeypatch.delenv("PYTHONPATH")
    words = [sys.executable, "-S", "-c", "from importlib.util import find_spec; print(find_spec('autoassist').origin)"]
    found = subprocess.run(
        words, env={**os.environ, **without_cwd()}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).parent.parent == HOME


def test_where_it_is_installed_nothing_comes_before_pythons_own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """``PYTHONPATH`` does, so that a package that is installed could hide one of them."""
    monkeypatch.setattr("site.getsitepackages", lambda: [str(HOME)])
    monkeypatch.setenv("PYTHONPATH", "mine")
    assert without_cwd()["PYTHONPATH"] == "mine"
