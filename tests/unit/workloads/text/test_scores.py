"""Where BLEU cannot tell, the user hears it."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from workloads.text.decoding import Search
from workloads.text.scores import corpus_scores, share_of_bleu
from workloads.translation import Translation


def test_references_of_three_words_have_no_bleu_though_every_translation_is_right() -> None:
    short = ["öffne die Datei", "lies es"]
    assert corpus_scores(short, short).bleu == 0.0 and corpus_scores(short, short).chrf == pytest.approx(100.0)
    assert share_of_bleu(short) == 0.0
    assert share_of_bleu([*short, "lies es jetzt bitte", "lies es jetzt!"]) == 0.5
    assert share_of_bleu([]) == 0.0


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def workload_of(path: Path, more: str) -> Translation:
    lines = [f"{a}{b} file{more}\t{a}{b} Datei{more}\n" for a in "abcdefgh" for b in "klmnopqrst"]
    path.write_text("".join(lines))
    return Translation(data=path)


def test_a_test_part_without_four_words_is_said_once_a_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workload = workload_of(tmp_path / "short.tsv", "")
    boss = workload.boss()
    with caplog.at_level(logging.WARNING, "autoassist.workloads"):
        for _ in range(2):
            workload.scores(boss, Search(beam=1), "cpu")
    (said,) = warnings(caplog)
    count = len(workload.corpus.test)
    assert f"short.tsv: 0 % of the {count} references of the test part have the four words that BLEU wants" in said
    assert "go by chrF" in said


def test_references_of_four_words_are_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workload = workload_of(tmp_path / "long.tsv", " now please")
    with caplog.at_level(logging.WARNING, "autoassist.workloads"):
        workload.scores(workload.boss(), Search(beam=1), "cpu")
    assert not warnings(caplog)


def test_the_digest_of_the_held_out_parts_follows_each_of_them_and_not_the_training_part(tmp_path: Path) -> None:
    corpus = workload_of(tmp_path / "x.tsv", "").corpus
    digest = corpus.held_out_digest()
    assert dataclasses.replace(corpus, train=corpus.train[1:]).held_out_digest() == digest
    changed = [("one", "eins")]
    others = {
        dataclasses.replace(corpus, validation=changed).held_out_digest(),
        dataclasses.replace(corpus, test=changed).held_out_digest(),
        dataclasses.replace(corpus, test=corpus.validation, validation=corpus.test).held_out_digest(),
    }
    assert len(others | {digest}) == 4
