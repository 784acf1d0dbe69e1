"""The memory benchmark's Assistant fills, learns, scores, and begins again where its checkpoint stands."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from assistant.tables import MAP_FROM, Tables
from benchmarks import memory_many
from benchmarks.memory_many import ManyInstances, measure


@pytest.mark.parametrize(("map_from", "bytes_on_disk"), [(0, 16.0), (MAP_FROM, 0.0)])
def test_every_figure_is_measured_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, map_from: int, bytes_on_disk: float
) -> None:
    monkeypatch.setattr(memory_many, "RECORDS", 60)
    monkeypatch.setattr(memory_many, "WINDOWS", 3)
    monkeypatch.setattr(memory_many, "Tables", partial(Tables, map_from=map_from))
    found = measure(ManyInstances(instances=5000, folder=tmp_path))
    assert found.disk_bytes_per_instance == bytes_on_disk
    assert min(found.window_us, found.record_us, found.checkpoint_ms, found.restart_ms) > 0.0
    assert found.anon_mb >= found.begun_anon_mb > 0.0
    assert (found.checkpoint_mb > 0.08) == (map_from > 0), "mapped tables are not copied"
    assert list(tmp_path.iterdir()) == []
