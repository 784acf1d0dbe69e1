"""A translation run from a TSV file to German sentences."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from autoassist.cli import main
from protocol.report import read_report
from tests.processes.roles import Role

pytestmark = pytest.mark.processes

VERBS = {"open": "öffne", "close": "schließe", "read": "lies", "write": "schreibe", "delete": "lösche", "find": "finde"}
NOUNS = {"file": "Datei", "folder": "Mappe", "letter": "Nachricht", "list": "Liste"}
HOW = {"now": "jetzt", "at once": "sofort", "once again": "noch einmal"}


def test_a_run_trains_on_sentence_pairs_and_what_it_has_learned_translates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTOASSIST_CACHE", str(tmp_path / "cache"))
    pairs = [(f"{v} the {n} {h}", f"{VERBS[v]} die {NOUNS[n]} {HOW[h]}") for v in VERBS for n in NOUNS for h in HOW]
    data, run_dir = tmp_path / "pairs.tsv", tmp_path / "run"
    data.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    words = ("--data", str(data), "--epochs", "30", "--batch-size", "16", "--run-dir", str(run_dir), "--seed", "1")
    run = Role("run", "translation", *words)
    assert run.end() == 0, run.text
    report = read_report(run_dir)
    assert report.metric.name == "test_bleu" and report.dataset_id.startswith("pairs-train:")
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO("".join(f"{source}\n" for source, _ in pairs).encode()))
    )
    assert main(["translate", str(run_dir), "--device", "cpu"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert sum(a == target for a, (_, target) in zip(found, pairs, strict=True)) > 50
