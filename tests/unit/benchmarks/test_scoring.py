"""The scoring benchmark scores what an Assistant scores, beside peers that fetch what it fetches."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.scoring import (
    AuthorsLoop,
    Data,
    ScoringBenchmark,
    columns_of,
    measure,
    rows_of,
    select,
    trained_core,
    write,
)

SMALL = ScoringBenchmark(n=2400, width=8, windows=4, repetitions=2)


def test_the_seen_and_the_unseen_are_filtered_by_what_was_learned() -> None:
    data = Data.drawn(SMALL)
    core = trained_core(SMALL, data)
    for ids in (np.arange(0, 1200), np.arange(1200, 2400)):
        kept = select(core, ids).kept_ids
        assert 0 < len(kept) < len(ids)
        assert data.losses[kept].mean() > data.losses[ids].mean()
    assert columns_of(core) == 11


def test_the_loop_passes_the_base_probability_and_of_the_rest_what_its_model_says() -> None:
    data = Data.drawn(SMALL)
    np.random.seed(0)
    sure = AuthorsLoop(data, np.zeros(8, dtype=np.float32), np.full(10, 50.0, dtype=np.float32))
    never = AuthorsLoop(data, np.zeros(8, dtype=np.float32), np.full(10, -50.0, dtype=np.float32))
    ids = np.arange(2000)
    assert sure(ids) == ids.tolist()
    assert len(never(ids)) == pytest.approx(0.3 * 2000, rel=0.15)
    weighed = AuthorsLoop(data, np.ones(8, dtype=np.float32), np.zeros(10, dtype=np.float32))
    x = data.features[3]
    assert weighed.importance(weighed.dataset[3][0], 0) == pytest.approx(1 / (1 + np.exp(-x.sum())))


def test_every_value_stands_in_the_table_and_the_file_has_the_medians_by_name(tmp_path: Path) -> None:
    found = measure(SMALL)
    assert {len(values) for values in found.values()} == {2} and len(rows_of(found)) == len(found)
    write(tmp_path / "scoring.json", found, SMALL)
    written = msgspec.json.decode((tmp_path / "scoring.json").read_bytes())
    assert written.keys() >= {"ratio_to_matmul", "ratio_to_loop", "unseen_ratio_to_matmul", "machine", "settings"}
    assert written["ratio_to_matmul"] == pytest.approx(np.mean(found["ratio_to_matmul"]))
    assert written["values"]["seen_per_s"] == found["seen_per_s"]
