"""A mistake in the user's workload ends a real run with one line that names class, method and remedy, and code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.conftest import Ended, Here

pytestmark = pytest.mark.processes

METHODS = {
    "batch of one row too few": ("def batch(self, ids):\n        return super().batch(ids[1:])", "Mine.batch("),
    "reduced losses": (
        "def losses(self, outputs, targets):\n        return super().losses(outputs, targets).mean()",
        "Mine.losses() returned shape (); expected shape (2,), one loss per instance: use reduction='none'",
    ),
    "a constructor that exits": ("def __init__(self, **words):\n        raise SystemExit(3)", "SystemExit: 3"),
}


LATE = {
    "an evaluation that gives a bare number": (
        "def evaluate(self, boss, device):\n        return 0.93",
        "Mine.evaluate() returned float 0.93; expected a workloads.Metric",
    ),
    "an evaluation that raises": (
        "def evaluate(self, boss, device):\n        raise KeyError('test_images')",
        "Mine.evaluate() raised KeyError: 'test_images' at ",
    ),
    "a batch that fails in the midst of the first epoch": (
        "def batch(self, ids):\n        return super().batch(ids if len(ids) == 2 else ids[1:])",
        "Mine.batch() of 64 IDs returned inputs of shape (63, 1, 8, 8); expected 64 rows, one per ID",
    ),
    "losses that exit": (
        "def losses(self, outputs, targets):\n"
        "        return super().losses(outputs, targets) if len(targets) == 2 else exit(3)",
        "Mine.losses() raised SystemExit: 3 at ",
    ),
}


def assert_a_mistake(ended: Ended, named: str) -> None:
    """Code 2 and one error that says this."""
    assert ended.code == 2, ended.text
    assert len(ended.errors) == 1 and ended.errors[0].startswith("error:") and named in ended.errors[0], ended.text
    assert "Traceback" not in ended.text


@pytest.mark.parametrize("body, named", [*METHODS.values(), *LATE.values()], ids=[*METHODS, *LATE])
def test_a_method_that_breaks_its_promise_is_named(body: str, named: str, tmp_path: Path, here: Here) -> None:
    (tmp_path / "mine.py").write_text(f"from workloads.digits import Digits\n\n\nclass Mine(Digits):\n    {body}\n")
    assert_a_mistake(here("run", "mine.py:Mine", "--policy", "uniform", cwd=tmp_path), named)


def test_a_workload_file_that_exits_at_import_is_named_with_its_line(tmp_path: Path, here: Here) -> None:
    (tmp_path / "script.py").write_text("import sys\n\nsys.exit(3)\n")
    assert_a_mistake(here("run", "script.py:Mine", cwd=tmp_path), "script.py:3; put what only a script should do under")


def test_a_data_dir_that_would_not_be_read_is_refused(tmp_path: Path, here: Here) -> None:
    assert_a_mistake(
        here("run", "digits", "--data-dir", str(tmp_path), cwd=tmp_path), f"data_dir={tmp_path}: digits is"
    )


def test_features_that_are_no_array_are_named_by_an_assistant_too(tmp_path: Path, here: Here) -> None:
    body = "def features(self):\n        return [[1.0, 2.0]]"
    (tmp_path / "mine.py").write_text(f"from workloads.digits import Digits\n\n\nclass Mine(Digits):\n    {body}\n")
    assert_a_mistake(
        here("assistant", "mine.py:Mine", cwd=tmp_path), "Mine.features() returned list; expected a float32"
    )
