"""``--log-json`` on a whole run: every line is JSON, with run, role, peer and step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.processes.roles import roles

pytestmark = pytest.mark.processes


def test_every_line_of_a_run_is_json_that_says_who_speaks(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with roles() as start:
        words = ("--epochs", "2", "--deterministic")  # so its Assistant is in the run, however late it comes
        run = start("run", "digits", *words, "--run-dir", str(run_dir), "--log-json", "--no-live")
        assert run.end() == 0, run.text
    lines = [json.loads(line) for line in run.said if line.startswith("{")]
    assert {"broker", "assistant", "boss"} <= {line["role"] for line in lines}
    ids = {line["run"] for line in lines if line["run"] is not None}
    assert ids == {json.loads((run_dir / "report.json").read_text())["run_id"]}
    evaluated = [line for line in lines if line["role"] == "boss" and "after" in line["message"]]
    assert [line["peer"] for line in evaluated] == ["boss-0"] * 2 and evaluated[0]["step"] < evaluated[1]["step"]
    assert len(lines) < 40, "a line per event, not per step"
    for path in (run_dir / "logs").glob("*.log"):
        assert all(json.loads(line)["message"] for line in path.read_text().splitlines()), path
