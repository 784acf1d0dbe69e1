"""Scores of trained translation models: BLEU, chrF, loss per token; kept beside each run's weights."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from autoassist.compare_result import Comparison
from autoassist.translate_command import read_translator
from broker.store import RunStore
from protocol.report import read_report
from workloads import load_workload
from workloads.text.decoding import Search
from workloads.translation import Translation

SCORES_FILE = "scores.json"


class RunScores(msgspec.Struct, frozen=True, kw_only=True):
    """Of one run."""

    bleu: float  # of the test part, 0 … 100
    chrf: float  # likewise
    loss: float  # of the validation part, nats per target token, without label smoothing
    tokens: int  # that the Boss trained on, those of the longer side; padding not counted
    wall_s: float  # the Boss's, evaluation excluded
    bleu_signature: str
    chrf_signature: str


def scored(comparison: Comparison, folder: Path, pairs: Path, device: str) -> dict[str, RunScores]:
    """Of every run of a comparison, by its directory's name; what was scored before is read."""
    workload = load_workload("translation", model=comparison.model, data=pairs)
    assert isinstance(workload, Translation)
    return {run.run_dir: scores_of(folder / run.run_dir, workload, device) for run in comparison.runs}


def scores_of(run_dir: Path, workload: Translation, device: str) -> RunScores:
    """By the averaged weights, with a beam of 4."""
    path = run_dir / SCORES_FILE
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=RunScores)
    report = read_report(run_dir)
    model, _ = read_translator(run_dir)
    model.to(device)
    found = workload.scores(model, Search(), device)
    scores = RunScores(
        bleu=float(found["bleu"]),
        chrf=float(found["chrf"]),
        loss=float(found["validation_loss"]),
        tokens=trained_tokens(run_dir, workload.lengths()),
        wall_s=report.boss.wall_s,
        bleu_signature=str(found["bleu_signature"]),
        chrf_signature=str(found["chrf_signature"]),
    )
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(scores)))
    part.replace(path)
    return scores


def trained_tokens(run_dir: Path, lengths: NDArray[np.int64]) -> int:
    """Of all batches of a run; the report leaves out those that were cut out of turn."""
    store = RunStore(run_dir, writable=False)
    try:
        return sum(int(lengths[batch.ids].sum()) for batch in store.finished_batches())
    finally:
        store.close()
