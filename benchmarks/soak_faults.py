"""The faults of the soak: what is killed, suspended, filled, cut off or thrown at the port."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

KINDS = (
    *("kill assistant", "suspend assistant", "kill broker", "suspend broker", "kill boss", "suspend rank", "kill rank"),
    *("another number of ranks", "garbage", "flood of connections"),
)
AS_ROOT = ("cut network", "full disk")
"""Kinds that need root: packets are dropped, and the run directory is a small file system of its own."""
MOST_RANKS = 3
DISK = "2g"
CHUNK = 1 << 26
MNT_DETACH = 2


@dataclass
class Processes:
    """The roles of the run, started again when they are gone."""

    run_dir: Path
    words: dict[str, list[str]] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    port: int = 0
    ranks: int = 1

    def start(self, name: str, *extra: str) -> None:
        """Start a role; its words go into a log beside the run."""
        with (self.run_dir.parent / f"{name}.log").open("ab") as log_file:
            words = [sys.executable, "-m", "autoassist", *self.words[name], *extra]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.running[name] = subprocess.Popen(words, stdout=log_file, stderr=log_file, env=environment)

    def start_all(self, workload: str, seed: int) -> None:
        """A broker on a free port, two Assistants, a Boss with checkpoints."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        address = f"tcp://127.0.0.1:{self.port}"
        self.words["broker"] = ["broker", "--run-dir", str(self.run_dir), "--port", str(self.port)]
        for i in range(2):
            name = f"assistant-{i}"
            role = ["assistant", workload, "--broker", address, "--name", name]
            self.words[name] = [*role, "--state-dir", str(self.run_dir.parent / "state")]
        checkpoints = ["--checkpoint-every", "50", "--checkpoint-dir", str(self.run_dir.parent / "checkpoints")]
        boss = ["boss", workload, "--broker", address, "--epochs", "1000000", "--seed", str(seed)]
        self.words["boss"] = [*boss, *checkpoints]
        for name in self.words:
            self.start(name)

    def start_again(self, name: str) -> None:
        """The Boss goes on from its newest checkpoint."""
        self.start(name, *(["--resume", "--world-size", str(self.ranks)] if name == "boss" else []))

    def kill(self, name: str) -> None:
        """kill -9 and start again; the ranks of a Boss die with the process that has launched them."""
        ranks = self.rank_processes() if name == "boss" else []
        self.running[name].kill()
        self.running[name].wait()
        psutil.wait_procs(ranks, timeout=30)
        self.start_again(name)

    def rank_processes(self) -> list[psutil.Process]:
        """The processes that train."""
        boss = psutil.Process(self.running["boss"].pid)
        return [child for child in boss.children() if "autoassist" in child.cmdline()] or [boss]

    def kill_rank(self, rng: random.Random) -> None:
        """kill -9 of one rank: the others leave, and all start again."""
        rng.choice(self.rank_processes()).kill()
        self.running["boss"].wait(60)
        self.start_again("boss")

    def rss_mb(self, name: str) -> float:
        """Resident memory."""
        return float(psutil.Process(self.running[name].pid).memory_info().rss) / 1e6

    def revive(self) -> int:
        """Start again what has ended by itself; returns how many had."""
        gone = [name for name, process in self.running.items() if process.poll() is not None]
        for name in gone:
            self.start_again(name)
        return len(gone)


def possible_kinds() -> tuple[str, ...]:
    """Kinds of faults that can be made here."""
    can_cut = os.geteuid() == 0 and shutil.which("iptables") is not None
    return KINDS + (AS_ROOT if can_cut else ())


@contextmanager
def disk_of_its_own(path: Path) -> Iterator[None]:
    """A file system that can be filled, where this process may mount one."""
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    is_mounted = os.geteuid() == 0 and not libc.mount(b"tmpfs", bytes(path), b"tmpfs", 0, f"size={DISK}".encode())
    try:
        yield
    finally:
        if is_mounted:
            libc.umount2(bytes(path), MNT_DETACH)


def inject(processes: Processes, rng: random.Random) -> str:
    """One fault; returns its kind."""
    kind = rng.choice(possible_kinds())
    match kind.split():
        case ["kill", "assistant"]:
            processes.kill(f"assistant-{rng.randrange(2)}")
        case ["suspend", "assistant"]:
            _suspend(psutil.Process(processes.running[f"assistant-{rng.randrange(2)}"].pid), rng.uniform(1, 8))
        case ["suspend", "rank"]:
            _suspend(rng.choice(processes.rank_processes()), rng.uniform(0.2, 5))
        case ["suspend", name]:
            _suspend(psutil.Process(processes.running[name].pid), rng.uniform(0.2, 5))
        case ["kill", "rank"]:
            processes.kill_rank(rng)
        case ["kill", name]:
            processes.kill(name)
        case ["another", *_]:
            processes.ranks = rng.choice([n for n in range(1, MOST_RANKS + 1) if n != processes.ranks])
            processes.kill("boss")
        case ["cut", _]:
            _cut_network(processes.port, rng.uniform(1, 8))
        case ["full", _]:
            _fill_disk(processes)
        case ["flood", *_]:
            with ExitStack() as held:
                held.enter_context(suppress(ConnectionRefusedError))  # it was started again a moment ago
                for _ in range(500):
                    held.enter_context(socket.create_connection(("127.0.0.1", processes.port), timeout=30))
        case _:
            with (
                suppress(ConnectionRefusedError),
                socket.create_connection(("127.0.0.1", processes.port), timeout=5) as line,
            ):
                line.sendall(rng.randbytes(rng.randrange(1, 5000)))
    return kind


def _suspend(process: psutil.Process, seconds: float) -> None:
    """SIGSTOP, and SIGCONT later."""
    process.send_signal(signal.SIGSTOP)
    timer = threading.Timer(seconds, _wake, args=(process,))
    timer.daemon = True
    timer.start()


def _wake(process: psutil.Process) -> None:
    if process.is_running():
        process.send_signal(signal.SIGCONT)


def _cut_network(port: int, seconds: float) -> None:
    """Packets to the broker are dropped without a word for a while; connections are half open."""
    rule = ("INPUT", "-i", "lo", "-p", "tcp", "--dport", str(port), "-j", "DROP")
    subprocess.run(("iptables", "-A", *rule), check=True)
    try:
        threading.Event().wait(seconds)
    finally:
        subprocess.run(("iptables", "-D", *rule), check=True)


def _fill_disk(processes: Processes) -> None:
    """The broker ends with an error; it is started again once there is space."""
    filler, broker = processes.run_dir / "filler", processes.running["broker"]
    deadline = time.monotonic() + 30
    with filler.open("wb") as file:
        size = CHUNK
        while size:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
            except OSError:
                size //= 2
    while broker.poll() is None and time.monotonic() < deadline:
        threading.Event().wait(0.1)
    filler.unlink()
    if broker.poll() is not None:
        processes.start_again("broker")
