"""docs/HOSTS.md: what it has people type is taken, at ports that agree, and what it quotes is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.project.shell_commands import parse, parse_torchrun

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "HOSTS.md").read_text()
LINES = re.findall(r"^((?:autoassist|torchrun) .+)$", PAGE, re.M)


def only(words: str) -> Any:
    """The command of the only line with these words."""
    (line,) = [line for line in LINES if line.startswith(words)]
    return parse(line, {})


@pytest.mark.parametrize("line", LINES)
def test_commands_are_such_that_our_command_line_takes(line: str) -> None:
    assert parse(line, {})


def test_ports_are_the_same_in_the_table_in_the_firewall_and_at_both_ends() -> None:
    broker = only("autoassist broker")
    ports = [broker.broker.port, broker.broker.statistics_port, broker.broker.preview_port, broker.monitor.http_port]
    assert re.findall(r"^\| (\d+) \|", PAGE, re.M) == [str(port) for port in ports]
    assert f"--dports {','.join(str(port) for port in ports)} -j DROP" in PAGE
    assert only("autoassist top").target == f"tcp://host-a:{ports[1]}"
    for role in ("assistant", "boss"):
        assert only(f"autoassist {role}").connect.broker == f"tcp://host-a:{ports[0]}"
    assert set(re.findall(r"http://host-a:(\d+)", PAGE)) == {str(ports[3])}


def test_the_hosts_of_a_boss_meet_at_the_first_with_numbers_of_their_own() -> None:
    options = [parse_torchrun(line, {}) for line in LINES if line.startswith("torchrun")]
    assert [one.node_rank for one in options] == list(range(int(options[0].nnodes)))
    assert {(one.master_addr, one.master_port, one.nnodes) for one in options} == {("host-c", 29500, "2")}


def test_what_the_page_says_that_roles_say_stands_in_the_code() -> None:
    table = PAGE.partition("## If a role does not find its broker")[2]
    quoted = re.findall(r"^\| `([^`]+)` \|", table, re.M)
    assert len(quoted) == 5
    code = "".join(path.read_text() for folder in ("protocol", "broker") for path in (ROOT / folder).glob("*.py"))
    for words in quoted:
        assert words.strip("… ") in code, words
