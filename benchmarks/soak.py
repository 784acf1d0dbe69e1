"""A long training under random faults, and what came of it: lost, doubled, too stale, waited, grown.

Broker, two Assistants and a Boss run as processes; every few seconds one of them is killed or suspended, or garbage is
thrown at the port. Killed ones are started again, the Boss from its newest checkpoint. At the end the run store is
audited.

    python -m benchmarks.soak --minutes 20 --faults
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import tyro

from autoassist.export import batch_records
from benchmarks.common import machine, print_table
from broker.store import RunStore
from protocol.report import read_report

KINDS = (
    *("kill assistant", "suspend assistant", "kill broker", "suspend broker", "kill boss", "suspend boss"),
    *("garbage", "flood of connections"),
)


@dataclass(frozen=True, kw_only=True)
class SoakBenchmark:
    """Settings of the soak."""

    minutes: float = 1.0
    """How long to train."""

    faults: bool = True
    """Whether to inject faults."""

    seed: int = 1
    """Seed of the run and of the faults."""

    workload: str = "digits"
    """What to train."""


@dataclass
class Processes:
    """The roles of the run, started again when they are gone."""

    run_dir: Path
    words: dict[str, list[str]] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    port: int = 0

    def start(self, name: str, *extra: str) -> None:
        """Start a role; its words go into a log beside the run."""
        with (self.run_dir.parent / f"{name}.log").open("ab") as log_file:
            words = [sys.executable, "-m", "autoassist", *self.words[name], *extra]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.running[name] = subprocess.Popen(words, stdout=log_file, stderr=log_file, env=environment)

    def start_all(self, settings: SoakBenchmark) -> None:
        """A broker on a free port, two Assistants, a Boss with checkpoints."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        address = f"tcp://127.0.0.1:{self.port}"
        self.words["broker"] = ["broker", "--run-dir", str(self.run_dir), "--port", str(self.port)]
        for i in range(2):
            name = f"assistant-{i}"
            role = ["assistant", settings.workload, "--broker", address, "--name", name]
            self.words[name] = [*role, "--state-dir", str(self.run_dir.parent / "state")]
        checkpoints = ["--checkpoint-every", "50", "--checkpoint-dir", str(self.run_dir.parent / "checkpoints")]
        boss = ["boss", settings.workload, "--broker", address, "--epochs", "1000000", "--seed", str(settings.seed)]
        self.words["boss"] = [*boss, *checkpoints]
        for name in self.words:
            self.start(name)

    def kill(self, name: str) -> None:
        """kill -9 and start again, the Boss from its checkpoint."""
        self.running[name].kill()
        self.running[name].wait()
        self.start(name, *(["--resume"] if name == "boss" else []))

    def suspend(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        process = self.running[name]
        process.send_signal(signal.SIGSTOP)
        timer = threading.Timer(seconds, process.send_signal, args=(signal.SIGCONT,))
        timer.daemon = True
        timer.start()

    def rss_mb(self, name: str) -> float:
        """Resident memory."""
        return float(psutil.Process(self.running[name].pid).memory_info().rss) / 1e6

    def revive(self) -> int:
        """Start again what has ended by itself; returns how many had."""
        gone = [name for name, process in self.running.items() if process.poll() is not None]
        for name in gone:
            self.start(name, *(["--resume"] if name == "boss" else []))
        return len(gone)


def inject(processes: Processes, rng: random.Random) -> str:
    """One fault; returns its kind."""
    kind = rng.choice(KINDS)
    match kind.split():
        case ["kill", "assistant"]:
            processes.kill(f"assistant-{rng.randrange(2)}")
        case ["suspend", "assistant"]:
            processes.suspend(f"assistant-{rng.randrange(2)}", rng.uniform(1, 8))
        case ["suspend", name]:
            processes.suspend(name, rng.uniform(0.2, 5))
        case ["kill", name]:
            processes.kill(name)
        case ["flood", *_]:
            with ExitStack() as held:
                for _ in range(500):
                    held.enter_context(socket.create_connection(("127.0.0.1", processes.port), timeout=30))
        case _:
            with socket.create_connection(("127.0.0.1", processes.port), timeout=5) as line:
                line.sendall(rng.randbytes(rng.randrange(1, 5000)))
    return kind


def audit(run_dir: Path) -> dict[str, int]:
    """What the run store says: doubled and lost instances, batches beyond the staleness bound."""
    report = read_report(run_dir)
    store = RunStore(run_dir, writable=False)
    trained: Counter[tuple[int, int]] = Counter()
    too_stale = 0
    for batch in batch_records(store):
        ids = iter(batch["ids"])
        for segment in batch["segments"]:
            trained.update((segment["epoch"], next(ids)) for _ in range(segment["count"]))
        too_stale += (batch["staleness"] or 0) > report.selection.staleness_steps.bound
    reported = Counter((r.step, r.rank) for r in store.loss_records())
    offered = Counter((w.epoch, i) for w in store.decided_windows() for i in w.ids.tolist())
    store.close()
    complete = report.selection.epochs[:-2]
    whole = {(e.epoch, i) for e in complete for i in range(report.n)}
    never_offered = len(whole - offered.keys())
    return {
        "epochs offered whole": len(complete),
        "lost": never_offered + len(trained.keys() - offered.keys()) + report.n - sum(e == 0 for e, _ in trained),
        "doubled": sum(sum(times - 1 for times in counts.values()) for counts in (offered, trained, reported)),
        "staleness violations": too_stale,
    }


def main(settings: SoakBenchmark) -> int:
    """Train, injure, audit, print; returns 1 where anything was lost, doubled or too stale."""
    rng, kinds, growth = random.Random(settings.seed), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder) / "run")
        processes.run_dir.mkdir()
        processes.start_all(settings)
        end, first_mb, revived = time.monotonic() + 60 * settings.minutes, 0.0, 0
        pause = threading.Event()
        while time.monotonic() < end:
            pause.wait(rng.uniform(3, 9))
            if settings.faults:
                kinds[inject(processes, rng)] += 1
            revived += processes.revive()
            now_mb = processes.rss_mb("broker")
            first_mb = first_mb or now_mb
            growth = max(growth, now_mb - first_mb)
        pause.wait(10)  # suspended ones wake, cut-off ones find back
        processes.running["boss"].send_signal(signal.SIGTERM)
        for name in ("boss", "broker", "assistant-0", "assistant-1"):
            processes.running[name].wait(60)
        found, report = audit(processes.run_dir), read_report(processes.run_dir)
    print(machine())
    print(f"{settings.workload}, {settings.minutes:g} minutes, seed {settings.seed}, status {report.status}\n")
    rows = [[f"fault: {kind}", str(count)] for kind, count in sorted(kinds.items())]
    rows += [[name, str(value)] for name, value in found.items()]
    rows += [
        ["processes that ended by themselves", str(revived)],
        ["steps, of them off the plan", f"{report.boss.steps}, {report.boss.off_plan_steps}"],
        ["exposed wait", f"{report.boss.exposed_wait_s:.1f} s of {report.boss.wall_s:.0f} s"],
        ["broker's memory growth, MB", f"{growth:.1f}"],
        ["refused input by cause", json.dumps(report.refused_input)],
    ]
    print_table(["soak", "count"], rows)
    bad = found["lost"] + found["doubled"] + found["staleness violations"] + revived
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(SoakBenchmark)))
