"""One table over the benchmarks of `make bench`: each figure beside its limit or peer, its goal, and whether it is met.

python -m benchmarks.limits runs/bench
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import tyro

from benchmarks.common import print_table


@dataclass(frozen=True)
class Limit:
    """A figure of a benchmark's file, by its name there, and where it should be."""

    file: str
    name: str
    words: str
    side: Literal["≥", "≤", "<", ""] = ""
    goal: float = 0.0
    form: str = ".2f"

    @property
    def sign(self) -> str:
        """Of the goal."""
        return f"{self.side} {self.goal:g}" if self.side else "-"

    def is_met(self, value: float) -> str:
        """In a word; of a figure without a goal there is none."""
        if not self.side:
            return ""
        is_met = {"≥": value >= self.goal, "≤": value <= self.goal, "<": value < self.goal}[self.side]
        return "yes" if is_met else "**no**"


LIMITS = (
    Limit("transport", "cycles_per_s", "broker with its run store: full cycles/s", "≥", 5000, ".0f"),
    Limit("transport", "ratio_to_router", "the same : a bare ROUTER loop with the same messages", "≥", 0.25),
    Limit("transport", "ratio_to_relay", "the same : a relay of the bytes of batch and report"),
    Limit("transport", "p50_ms", "latency of a cycle at 2,000 cycles/s, p50, ms"),
    Limit("transport", "p99_ms", "p99, ms", "<", 2),
    Limit("transport", "p99_9_ms", "p99.9, ms"),
    Limit("transport", "ratio_keyed", "with CURVE : without, cycles/s", "≥", 0.5),
    Limit("transport", "ratio_to_queue", "batches coded and sent : torch.multiprocessing.Queue", "≥", 2),
    Limit("scoring", "ratio_to_matmul", "scoring seen instances : matrix product, rows gathered", "≥", 0.67),
    Limit("scoring", "unseen_ratio_to_matmul", "unseen instances : the matrix product", "≥", 0.67),
    Limit("scoring", "ratio_to_loop", "seen : the authors' loop over instances", "≥", 20, ".0f"),
    Limit("scoring", "unseen_ratio_to_loop", "unseen : the authors' loop", "≥", 20, ".0f"),
    Limit("boss_overhead", "first_learn_percent", "Assistant's training, first epoch, % of the Boss's step", "<", 2),
    Limit("boss_overhead", "learn_percent", "the same in later epochs", "<", 2),
    Limit("boss_overhead", "bosses_by_learning", "CPU Bosses for which one core's training suffices", "≥", 25, ".0f"),
    Limit("boss_overhead", "bosses", "the same with scoring and messages", "", 0, ".0f"),
    Limit("boss_overhead", "p50_us", "feed and report on the training thread, p50, µs", "<", 20, ".1f"),
    Limit("boss_overhead", "p99_us", "p99, µs", "<", 200, ".0f"),
    Limit("boss_overhead", "step_share_percent", "mean, % of a 5 ms step", "<", 1),
    Limit("boss_overhead", "cnn_ratio_0", "every batch, through the system : plain DataLoader", "≥", 0.97, ".3f"),
    Limit("boss_overhead", "cnn_ratio_2", "the same, two workers", "≥", 0.97, ".3f"),
    Limit("exposed_wait", "spinning_calm_wait_percent", "exposed wait at 1 ms steps, one Assistant, %", "≤", 0.5),
    Limit("exposed_wait", "spinning_killed_wait_percent", "the same, Assistants killed every 2 s, %", "≤", 0.5),
    Limit("exposed_wait", "spinning_killed_scored_percent", "batches that any of them has scored, %", "", 0, ".0f"),
    Limit("memory", "broker_mb", "broker of 10^9 instances, MB", "≤", 64, ".1f"),
    Limit("memory", "assistant_bytes_per_instance", "Assistant of 10^8: bytes of history an instance", "≤", 16, ".1f"),
    Limit("memory", "ratio_window_many_to_few", "time of a window, 10^8 : 10^6 instances"),
    Limit("startup", "broker_s", "broker listens after, s", "<", 0.5),
    Limit("startup", "assistant_s", "Assistant without a WORKLOAD has joined after, s", "<", 3),
    Limit("startup", "filtered_s", "first batch that random-drop filters, all being up, s", "<", 5),
)  # fmt: skip


def rows_of(files: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """A row for each limit whose benchmark has a file; median, and the spread where there are repetitions."""
    for limit in LIMITS:
        found = files.get(limit.file)
        if found is None:
            continue
        value = float(found[limit.name])
        values = found["values"].get(limit.name, [])
        least_most = f" ({min(values):{limit.form}} … {max(values):{limit.form}})" if len(values) > 1 else ""
        yield [limit.words, f"{value:{limit.form}}{least_most}", limit.sign, limit.is_met(value)]


def main(folder: Path, /) -> int:
    """Read the benchmarks' files and print the table; 2 where there is none."""
    files = {
        path.stem: msgspec.json.decode(path.read_bytes())
        for path in sorted(folder.glob("*.json"))
        if path.stem in {limit.file for limit in LIMITS}
    }
    if not files:
        print(f"{folder}: no benchmark has written a file there; run make bench", file=sys.stderr)
        return 2
    for machine in sorted({str(found["machine"]).partition(", load")[0] for found in files.values()}):
        print(machine)
    print()
    print_table(["what", "median (least … greatest)", "goal", "met"], list(rows_of(files)))
    return 0


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
