"""An Assistant of very many instances, in a process of its own, for ``benchmarks.memory``.

python -m benchmarks.memory_many --instances 100000000 --folder /var/tmp
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import tyro

from assistant.checkpoint import AssistantCheckpoint, read_checkpoint
from assistant.core import AssistantCore
from assistant.policies import AutoAssist, Guarded, make_policy
from assistant.tables import Tables
from protocol.messages import LossRecord, Selection, Window
from protocol.settings import RunSettings

FILL = 1 << 20
"""Instances at a time that get the loss of the first epoch."""
BATCH, RECORDS = 128, 2000
"""Of the second epoch, at random places, as many as between two checkpoints."""
WINDOW, WINDOWS = 256, 1000


@dataclass(frozen=True, kw_only=True)
class ManyInstances:
    """Settings of the process."""

    instances: int
    """Instances of the data set, without features and labels."""

    folder: Path
    """Where the tables and the checkpoint lie."""


class AssistantFigures(msgspec.Struct):
    """What is measured."""

    begun_anon_mb: float
    """Anonymous memory before there was a policy."""
    anon_mb: float
    """The most of it at any later look."""
    file_mb: float
    """Mapped files' pages that are in memory at the end: the kernel may drop them."""
    disk_bytes_per_instance: float
    window_us: float
    """CPU time of a window, to its selection."""
    record_us: float
    """CPU time of a record, learned."""
    checkpoint_ms: float
    """Time that a checkpoint takes."""
    checkpoint_mb: float
    restart_ms: float
    """Time until another process has the state of the checkpoint, after so many records more."""


def resident_mb(kind: str) -> float:
    """``RssAnon`` or ``RssFile`` of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.split(f"{kind}:")[1].split()[0]) * 1024 / 1e6


class Measured:
    """The Assistant, and what it has cost."""

    def __init__(self, settings: ManyInstances, folder: Path) -> None:
        self.n, self.folder, self.position = settings.instances, folder, 0
        self.begun = self.most = resident_mb("RssAnon")
        self.rng = np.random.default_rng(1)
        self.core = self.begin()
        self.tables.begin()

    def begin(self) -> AssistantCore:
        """A new one, as a process begins."""
        run = RunSettings()
        self.tables = Tables(self.folder / "assistant-0")
        return AssistantCore(run, make_policy(run, self.n, tables=self.tables))

    def look(self) -> None:
        """At the memory."""
        self.most = max(self.most, resident_mb("RssAnon"))

    def learn(self, ids: np.ndarray, epoch: int) -> None:
        """One record; what is hard stays hard."""
        position, self.position = self.position, self.position + 1
        losses = (self.rng.exponential(size=len(ids)) * (0.1 + ids % 7)).astype(np.float32)
        record = LossRecord(
            position=position,
            step=position,
            rank=0,
            learned_through=position,
            epoch=epoch,
            ids=ids,
            losses=losses,
            keep_probabilities=np.ones(len(ids), dtype=np.float32),
        )
        self.core.receive(record)
        self.core.work()

    def first_epoch(self) -> None:
        """Leave the tables as it does, without the minutes that it takes: all rows written, all losses known."""
        policy = self.core.policy
        assert isinstance(policy, Guarded) and isinstance(policy.policy, AutoAssist) and policy.noise is not None
        rows = policy.policy.instances.rows
        for start in range(0, self.n, FILL):
            stop = min(self.n, start + FILL)
            rows[start:stop, :2] = ((0.1 + np.arange(start, stop) % 7) / 3.1)[:, None]
            rows[start:stop].view(np.int32)[:, 2] = 1
            policy.noise.streak[start:stop] = 0
        self.look()

    def second_epoch(self) -> float:
        """Records at random places; seconds of CPU time."""
        spent = 0.0
        for _ in range(RECORDS):
            ids = self.rng.integers(0, self.n, BATCH)
            start = time.thread_time()
            self.learn(ids, 1)
            spent += time.thread_time() - start
        self.look()
        return spent

    def windows(self) -> float:
        """Seconds of CPU time."""
        spent = 0.0
        for number in range(WINDOWS):
            ids = self.rng.integers(0, self.n, WINDOW)
            start = time.thread_time()
            self.core.receive(Window(window=number, attempt=1, epoch=2, progress=0.5, ids=ids))
            said = self.core.work()
            spent += time.thread_time() - start
            assert isinstance(said[0], Selection) and len(said[0].kept_ids) < WINDOW, "nothing is left out"
        self.look()
        return spent

    @property
    def path(self) -> Path:
        """Of the checkpoint."""
        return self.folder / "assistant-0.npz"

    def checkpoint(self) -> float:
        """Seconds."""
        start = time.perf_counter()
        mark = self.tables.prepare()
        AssistantCheckpoint("run/0", self.position, 0, self.core.policy.state_dict(), mark).write(self.path)
        self.tables.commit()
        self.look()
        return time.perf_counter() - start

    def restart(self) -> float:
        """Seconds."""
        self.tables.close()
        start = time.perf_counter()
        saved = read_checkpoint(self.path)
        assert saved is not None
        self.core = self.begin()
        self.core.policy.load_state_dict(saved.policy)
        self.tables.go_back(saved.mark)
        return time.perf_counter() - start


def measure(settings: ManyInstances) -> AssistantFigures:
    """Fill, learn, score, write a checkpoint, begin again."""
    with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
        it = Measured(settings, Path(folder))
        it.first_epoch()
        it.second_epoch()
        checkpoint_s = it.checkpoint()
        learned_s, scored_s = it.second_epoch(), it.windows()
        files = [path.stat().st_size for path in Path(folder).glob("assistant-0.[ig]*")]
        return AssistantFigures(
            begun_anon_mb=it.begun,
            anon_mb=it.most,
            file_mb=resident_mb("RssFile"),
            disk_bytes_per_instance=sum(files) / it.n,
            window_us=scored_s / WINDOWS * 1e6,
            record_us=learned_s / RECORDS * 1e6,
            checkpoint_ms=checkpoint_s * 1e3,
            checkpoint_mb=it.path.stat().st_size / 1e6,
            restart_ms=it.restart() * 1e3,
        )


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.stdout.buffer.write(msgspec.json.encode(measure(tyro.cli(ManyInstances))) + b"\n")
