"""A run of processes with keys: each role has its own file, and nobody else is let in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoassist.keys_command import make_keys
from protocol.report import read_report
from tests.processes.roles import HERE, roles, start_broker

pytestmark = pytest.mark.processes
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


def test_roles_with_their_own_keys_finish_a_run_that_others_cannot_join(tmp_path: Path) -> None:
    keys, run_dir = tmp_path / "keys", tmp_path / "run"
    make_keys(keys)
    with roles() as start:
        broker, address, statistics_address = start_broker(start, run_dir, "--keys", str(keys))
        assistant = start("assistant", HEAVY, "--broker", address, "--keys", str(keys / "assistant.key"))
        top = start("top", statistics_address, "--once", "--json", "--keys", str(keys / "monitor.key"))
        assert top.end() == 0 and "run_id" in json.loads(top.text), top.text
        pretender = start("boss", "digits", "--broker", address, "--keys", str(keys / "assistant.key"))
        assert pretender.end() == 2 and "speaks as boss" in pretender.text, pretender.text
        assert "Traceback" not in pretender.text
        boss = start("boss", HEAVY, "--broker", address, "--epochs", "2", "--keys", str(keys))
        assert boss.end() == 0, boss.text
        assert assistant.end() == 0, assistant.text
        assert broker.end() == 0, broker.text
    report = read_report(run_dir)
    assert report.status == "finished" and report.assistants[0].name == "assistant-0"
