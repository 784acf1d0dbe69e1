"""``autoassist translate`` says what it cannot translate with, and gives a line for each line."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path

import pytest
import torch

from autoassist import translate_command
from autoassist.cli import main
from autoassist.remembered import Remembered
from autoassist.roles import WorkloadSettings
from autoassist.run_command import RunCommand
from autoassist.translate_command import parts, require_same_held_out
from protocol.errors import DataError
from protocol.report import REPORT_FILE, encode_report
from tests.unit.autoassist.made_up import report_of
from workloads.text.gpt import Gpt
from workloads.text.pairs import Corpus
from workloads.text.sizes import SIZES, Size
from workloads.text.subwords import learn
from workloads.text.transformer import Transformer
from workloads.translation import Translation

SIXTY = "".join(f"close the {a}{b} now\tschließe {a}{b} jetzt\n" for a in "abcdefgh" for b in "klmnopqr")


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a translation run that has ended without having learned anything."""
    little = Size(width=16, heads=2, hidden=16, layers=1, subwords=300, peak_lr=1e-2)
    monkeypatch.setitem(SIZES, "tiny", little)
    vocabulary = learn(["open the file", "öffne die Datei"] * 20, little.subwords)
    torch.manual_seed(1)
    torch.save(Transformer(little, 300, vocabulary).state_dict(), tmp_path / "boss.pt")
    (tmp_path / "command.json").write_bytes(Remembered.of(RunCommand(workload="translation")).encoded())
    return tmp_path


def test_each_line_gives_a_line_and_an_empty_one_an_empty_one(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"open the file\n\nthe open file")))
    assert main(["translate", str(run_dir), "--beam", "2"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 4 and lines[1] == "" == lines[3] and lines[0]


def test_an_unfinished_run_is_refused_with_the_way_to_finish_it(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "boss.pt").unlink()
    assert main(["translate", str(run_dir)]) == 2
    assert f"the run is not finished; autoassist run --resume {run_dir} goes on" in capsys.readouterr().err


def test_the_weights_of_a_stopped_run_translate_with_a_warning(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for status, warned in (("finished", False), ("stopped", True)):
        (run_dir / REPORT_FILE).write_bytes(encode_report(report_of("autoassist", status=status)))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"open the file")))
        assert main(["translate", str(run_dir), "--beam", "1"]) == 0
        assert ("the run is stopped, not finished" in caplog.text) == warned


def test_a_run_of_another_workload_is_refused_by_name(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(2)}, run_dir / "boss.pt")
    (run_dir / "command.json").write_bytes(Remembered.of(RunCommand(workload="digits")).encoded())
    assert main(["translate", str(run_dir)]) == 2
    assert "is of workload digits, which translates nothing" in capsys.readouterr().err


def test_a_run_of_the_language_model_is_no_translation_run(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its weights have a vocabulary and an average, too."""
    torch.save(Gpt(SIZES["tiny"], 300, b"x").state_dict(), run_dir / "boss.pt")
    (run_dir / "command.json").write_bytes(Remembered.of(RunCommand(workload="lm")).encoded())
    assert main(["translate", str(run_dir)]) == 2
    said = capsys.readouterr().err
    assert "boss.pt is of workload lm, which translates nothing" in said and len(said) < 500


def cut_short(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights | {"encoder_norm.weight": weights["encoder_norm.weight"][:3]}


def without_norm(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights.items() if name != "encoder_norm.weight"}


@pytest.mark.parametrize("damage", [0, 1000, "text", cut_short, without_norm])
def test_damaged_weights_are_named(damage: object, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_dir / "boss.pt"
    if callable(damage):
        torch.save(damage(torch.load(path, weights_only=True)), path)
    else:
        path.write_bytes(path.read_bytes()[:damage] if isinstance(damage, int) else b"no weights")
    assert main(["translate", str(run_dir)]) == 2
    said = capsys.readouterr().err
    assert f"{path} is damaged (" in said and "; train again, or bring the file back" in said


def test_weights_that_cannot_be_read_are_named_with_the_reason(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", refuse)
    assert main(["translate", str(run_dir)]) == 2
    assert f"{run_dir / 'boss.pt'}: Permission denied; make the file readable" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("beam", "0"), ("beam", "65"), ("length-penalty", "-1")])
def test_a_search_that_is_none_is_refused(
    option: str, value: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["translate", str(run_dir), f"--{option}", value]) == 2
    assert f"{option.replace('-', '_')}={value}" in capsys.readouterr().err


def test_lines_are_taken_some_at_a_time() -> None:
    assert list(parts(io.BytesIO("ä\nb \n\nc".encode()), 3)) == [["ä", "b", ""], ["c"]]


def test_a_run_is_scored_on_its_own_test_part_with_sacrebleus_signatures(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = run_dir / "pairs.tsv"
    data.write_text("".join(f"open file {i:b}\töffne Datei {i:b}\n" for i in range(9)) + SIXTY)
    workload = Translation(data=data)
    settings = WorkloadSettings(data=data)
    (run_dir / "command.json").write_bytes(Remembered.of(RunCommand(workload="translation", data=settings)).encoded())
    report = type("Report", (), {"dataset_id": workload.fingerprint().dataset_id})
    monkeypatch.setattr(translate_command, "read_report", lambda run_dir: report)
    assert main(["translate", str(run_dir), "--score", "--beam", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"bleu", "chrf", "test_loss", "validation_loss"} and found["test_loss"] > 0
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in found["bleu_signature"]
    weights = torch.load(run_dir / "boss.pt", weights_only=True)
    weights["best._extra_state"]["judged_by"] = "others"
    torch.save(weights, run_dir / "boss.pt")
    assert main(["translate", str(run_dir), "--score", "--beam", "1"]) == 2
    assert "was evaluated on validation and test part others, the data has" in capsys.readouterr().err
    report.dataset_id = "pairs-train:another"
    assert main(["translate", str(run_dir), "--score"]) == 2
    assert "was trained on pairs-train:another, the data is pairs-train:" in capsys.readouterr().err


def test_a_run_is_not_scored_on_another_held_out_part(run_dir: Path) -> None:
    corpus = Corpus("x", [("a", "b")], [("c", "d")], [("e", "f")], "test")
    workload, model = Translation(), Transformer(SIZES["tiny"], 300)
    workload.corpus = corpus
    require_same_held_out(run_dir, model, workload)
    model.best.judged_by = corpus.held_out_digest()
    require_same_held_out(run_dir, model, workload)
    workload.corpus = dataclasses.replace(corpus, test=[("e", "F")])
    with pytest.raises(DataError, match=r"was evaluated on validation and test part \w+, the data has \w+ now; bring"):
        require_same_held_out(run_dir, model, workload)


def test_a_byte_order_mark_before_the_first_line_is_taken_off() -> None:
    found = list(parts(io.BytesIO("\ufeffä\n\ufeffb\n".encode()), 3))
    assert found == [["ä", "\ufeffb"]]


def test_a_line_that_is_not_utf_8_is_named() -> None:
    with pytest.raises(DataError, match=r"standard input: line 2 is not UTF-8 .*iconv"):
        list(parts(io.BytesIO(b"good\nb\xe4d\n"), 1))
