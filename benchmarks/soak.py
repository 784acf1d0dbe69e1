"""A long training under random faults, and what came of it: lost, doubled, too stale, waited, grown.

Broker, two Assistants and a Boss of one to three ranks run as processes; every few seconds one of them is killed or
suspended, the disk is filled, the network cut, the number of ranks changed, or garbage thrown at the port. What was
killed is started again, the Boss from its newest checkpoint. At the end the run store is audited.

    python -m benchmarks.soak --minutes 20 --faults
"""

from __future__ import annotations

import json
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import tyro

from autoassist.export import batch_records
from benchmarks.common import machine, print_table
from benchmarks.soak_faults import Processes, disk_of_its_own, inject
from broker.store import RunStore
from protocol.report import read_report


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
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        processes = Processes(Path(folder) / "run")
        stack.enter_context(disk_of_its_own(processes.run_dir))
        processes.start_all(settings.workload, settings.seed)
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
        for name in ("boss", "broker", "assistant-0", "assistant-1"):
            processes.running[name].send_signal(signal.SIGTERM)  # a Boss that is still starting says no Goodbye
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
