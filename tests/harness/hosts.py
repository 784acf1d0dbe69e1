"""Hosts with names and addresses of their own on one machine: network namespaces on a switch."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_numbers = itertools.count()
NAMES = Path("/etc/netns")
"""What lies in a folder of this with a namespace's name is in its place in /etc for who is within."""


def does(*words: str) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


class Host:
    """One host of a network: a namespace, and a folder that is its disk."""

    def __init__(self, name: str, address: str, namespace: str, home: Path) -> None:
        self.name, self.address, self.namespace, self.home = name, address, namespace, home
        self.within = ("ip", "netns", "exec", namespace)

    def kill(self) -> None:
        """kill -9 of all that runs here, at once."""
        found = subprocess.run(("ip", "netns", "pids", self.namespace), check=False, capture_output=True, text=True)
        for pid in found.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def add_address(self, address: str) -> None:
        """One more address, with the length of its network."""
        assert does(*self.within, "ip", "addr", "add", address, "dev", "eth0")


def _open(switch: str, hosts: Sequence[Host], length: int) -> bool:
    """Make switch and hosts; False where this system does not let us."""
    if not (
        does("ip", "netns", "add", switch)
        and does("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        and does("ip", "-n", switch, "link", "set", "bridge", "up")
    ):
        return False
    names = "".join(f"{host.address} {host.name}\n" for host in hosts)
    for number, host in enumerate(hosts):
        folder, port = NAMES / host.namespace, f"port{number}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        ends = ("type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        if not (
            does("ip", "netns", "add", host.namespace)
            and does("ip", "-n", switch, "link", "add", port, *ends)
            and does("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            and does("ip", "-n", host.namespace, "link", "set", "lo", "up")
            and does("ip", "-n", host.namespace, "addr", "add", f"{host.address}/{length}", "dev", "eth0")
            and does("ip", "-n", host.namespace, "link", "set", "eth0", "up")
            and does(*host.within, "iptables", "-L")
        ):
            return False
    return True


@contextmanager
def network_of(addresses: dict[str, str], homes: Path, length: int = 24) -> Iterator[dict[str, Host]]:
    """Hosts by name, with these addresses, which meet nothing of this machine's own network.

    Skips the test where the system gives no namespaces, and says what is missing.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("iptables") is None:
        pytest.skip("network namespaces need root, ip and iptables")
    run = f"autoassist-{os.getpid()}-{next(_numbers)}"
    hosts = {name: Host(name, address, f"{run}-{name}", homes / name) for name, address in addresses.items()}
    try:
        for host in hosts.values():
            host.home.mkdir()
        if not _open(run, list(hosts.values()), length):
            pytest.skip("this system does not let root make network namespaces with iptables")
        yield hosts
    finally:
        for host in hosts.values():
            host.kill()
            does("ip", "netns", "del", host.namespace)
            shutil.rmtree(NAMES / host.namespace, ignore_errors=True)
        does("ip", "netns", "del", run)
