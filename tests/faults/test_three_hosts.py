"""The tutorial of three hosts, docs/HOSTS.md: what it tells people to type, typed in three network namespaces.

Its own addresses, names, keys and firewall. Only the training is another: a small one, slow enough to be disturbed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.report import read_report
from tests.faults.test_broker_outage import assert_nothing_lost_or_doubled
from tests.harness.hosts import Host, network_of
from tests.processes.roles import DEADLINE_S, HERE, Role, roles

pytestmark = pytest.mark.processes
PAGE = Path(__file__).resolve().parents[2] / "docs" / "HOSTS.md"
EPOCHS = 12
INSTEAD = {
    "fashion-mnist": f"{HERE / 'heavy_digits.py'}:HeavyDigits",
    "--epochs 30": f"--epochs {EPOCHS}",
    "--checkpoint-every 500": "--checkpoint-every 20",
}
"""What the test types otherwise than the page has it."""
ADDRESSES = {"host-a": "10.0.0.1", "host-b": "10.0.0.2", "host-c": "10.0.0.3"}


def blocks() -> list[tuple[str, list[str]]]:
    """The page's blocks in order: the host, and the lines that are typed there."""
    text = PAGE.read_text()
    for words, others in INSTEAD.items():
        assert words in text, f"the page says {words!r} no more"
        text = text.replace(words, others)
    found = re.findall(r"^```\n# (host-\w)(?:, as root)?\n(.*?)^```$", text, re.M | re.S)
    assert len(found) == text.count("```") // 2, "a block names no host"
    return [(host, typed.splitlines()) for host, typed in found]


KEYS, FIREWALL, BROKER, ASSISTANT, BOSS, LOOK, ADD, REMOVE = range(8)


class Tutorial:
    """Types the blocks of the page on their hosts."""

    def __init__(self, hosts: dict[str, Host], programs: Path) -> None:
        self.hosts, self.blocks = hosts, blocks()
        self._programs = programs
        programs.mkdir()
        scp = 'for last; do :; done\nwhile [ $# -gt 1 ]; do cp "$1" "{homes}/${{last%:}}/"; shift; done\n'
        self._write("scp", scp.format(homes=programs.parent))
        self._write("autoassist", f'exec {sys.executable} -m autoassist "$@"\n')

    def _write(self, name: str, script: str) -> None:
        (self._programs / name).write_text(f"#!/bin/sh\n{script}")
        (self._programs / name).chmod(0o755)

    def do(self, block: int) -> str:
        """Type a block and wait for its end; what it said."""
        name, lines = self.blocks[block]
        return "".join(self.type(name, line) for line in lines)

    def type(self, name: str, line: str) -> str:
        """One line on a host, which must succeed; what it said."""
        host = self.hosts[name]
        words = [*host.within, "sh", "-c", line]
        done = subprocess.run(
            words, cwd=host.home, env=self.environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert done.returncode == 0, f"{name}: {line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def role(self, start: Callable[..., Role], block: int, key: str = "") -> Role:
        """Type the one line of a block that starts a role; with another key file if one is given."""
        name, (line,) = self.blocks[block]
        program, *arguments = shlex.split(line)
        assert program == "autoassist"
        if key:
            arguments[arguments.index("--keys") + 1] = key
        return start(*arguments, cwd=self.hosts[name].home, within=self.hosts[name].within)

    @property
    def environment(self) -> dict[str, str]:
        """What a person at the terminal has."""
        return {**os.environ, "PATH": f"{self._programs}:{os.environ['PATH']}"}


@pytest.fixture
def tutorial(tmp_path: Path) -> Iterator[Tutorial]:
    if shutil.which("curl") is None:
        pytest.skip("the tutorial's checks need curl")
    with network_of(ADDRESSES, tmp_path) as hosts:
        yield Tutorial(hosts, tmp_path / "programs")


def test_what_the_tutorial_types_trains_on_three_hosts_through_a_killed_boss_and_keeps_strangers_out(
    tutorial: Tutorial,
) -> None:
    home = {name: host.home for name, host in tutorial.hosts.items()}
    tutorial.do(KEYS)
    tutorial.do(FIREWALL)
    assert {path.name for path in home["host-b"].iterdir()} == {"assistant.key", "monitor.key"}
    assert {path.name for path in home["host-c"].iterdir()} == {"boss.key"}
    with roles() as start:
        broker, assistant = tutorial.role(start, BROKER), tutorial.role(start, ASSISTANT)
        assistant.wait_for("waiting for the broker")
        boss = tutorial.role(start, BOSS)
        boss.wait_for("epoch 1:")
        boss.kill()  # so the run cannot end before all the rest is tried
        assert list((home["host-c"] / "checkpoints").glob("*.pt"))
        said = tutorial.do(LOOK)
        assert "autoassist_peers" in said and "ok" in said, said
        _assert_only_the_own_network_gets_in(tutorial)
        tutorial.do(ADD)
        tutorial.do(REMOVE)
        stranger = tutorial.role(start, ASSISTANT, "assistant-d.key")
        assert stranger.end() == 2 and "does not allow the key assistant-d here" in stranger.text, stranger.text
        again = tutorial.role(start, BOSS)
        again.wait_for("resuming from the checkpoint of step")
        for role in (again, assistant, broker):
            assert role.end() == 0, role.text
    assert_nothing_lost_or_doubled(home["host-a"] / "runs" / "mine", EPOCHS)
    report = read_report(home["host-a"] / "runs" / "mine")
    assert report.status == "finished" and report.assistants[0].windows > 0
    assert (home["host-c"] / "boss.pt").exists() and list((home["host-b"] / "state").iterdir())


def _assert_only_the_own_network_gets_in(tutorial: Tutorial) -> None:
    """The same broker, by an address of another network: the firewall says nothing."""
    tutorial.hosts["host-a"].add_address("192.168.77.1/24")
    tutorial.hosts["host-b"].add_address("192.168.77.2/24")
    host = tutorial.hosts["host-b"]
    words = ("curl", "--silent", "--connect-timeout", "0.5", "http://192.168.77.1:9155/healthz")
    assert subprocess.run([*host.within, *words], check=False, capture_output=True).returncode == 28
