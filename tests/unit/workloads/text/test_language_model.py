"""The language model workload, on made-up text files."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from protocol.errors import DataError, SettingError, WorkloadError
from workloads import load_workload, validate_workload
from workloads.language_model import BLOCK, LanguageModel
from workloads.text.documents import read_documents, sections, text_files
from workloads.text.gpt import mean_loss, mean_of_selected
from workloads.text.subwords import END

WORDS = ("der", "Wind", "weht", "durch", "alte", "Gassen", "und", "ein", "Hund", "bellt", "leise", "vor", "dem", "Haus")


def write(folder: Path, *, files: int = 6, paragraphs: int = 60) -> Path:
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        text = [" ".join(rng.choice(WORDS, size=40)) for _ in range(paragraphs)]
        (folder / f"{number}.txt").write_text("\n\n".join(text))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("texts") / "made-up")


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(autouse=True)
def kept(one_cache: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for all, so that subwords are learned once."""
    monkeypatch.setenv("AUTOASSIST_CACHE", str(one_cache))


@pytest.fixture(scope="module")
def workload(data: Path, one_cache: Path) -> Iterator[LanguageModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOASSIST_CACHE", str(one_cache))
        made = load_workload("lm", data=data)
        assert isinstance(made, LanguageModel)
        made.fingerprint()
        yield made


@pytest.fixture(scope="module")
def reference(workload: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's directory, as far as it is looked at."""
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("reference")
    torch.save(workload.boss().state_dict(), folder / "boss.pt")
    return folder


def test_it_keeps_what_the_interface_promises(workload: LanguageModel) -> None:
    validate_workload(workload)
    assert workload.fingerprint().dataset_id.startswith("lm-made-up-train:")
    assert workload.lengths() is None


def test_blocks_are_the_training_part_end_to_end(workload: LanguageModel) -> None:
    n = workload.fingerprint().n
    inputs, targets = workload.batch(range(n))
    assert inputs.shape == targets.shape == (n, BLOCK)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs[1:, 0], targets[:-1, -1])
    documents = workload.subwords.encode_whole(workload.documents.train, last=END)
    assert targets.flatten().tolist() == documents.tokens[1 : n * BLOCK + 1].tolist()


def test_a_loss_is_the_mean_over_the_tokens_of_its_block(workload: LanguageModel) -> None:
    boss = workload.boss().eval()
    inputs, targets = workload.batch([0, 1])
    outputs = boss(inputs)
    expected = torch.nn.functional.cross_entropy(outputs[1], targets[1])
    assert torch.allclose(workload.losses(outputs, targets)[1], expected, atol=1e-5)


def test_the_model_looks_at_no_later_token(workload: LanguageModel) -> None:
    boss = workload.boss().eval()
    inputs, _ = workload.batch([0])
    changed = inputs.clone()
    changed[0, 64:] = 5
    with torch.no_grad():
        one, other = boss(inputs)[0], boss(changed)[0]
    assert torch.allclose(one[:64], other[:64], atol=1e-6) and not torch.allclose(one[64:], other[64:])


def test_it_learns_and_its_perplexity_falls(workload: LanguageModel) -> None:
    torch.manual_seed(1)
    boss = workload.boss()
    before = workload.evaluate(boss, torch.device("cpu"))
    optimizer = workload.optimizer(boss)
    inputs, targets = workload.batch(range(16))
    for _ in range(40):
        optimizer.zero_grad()
        workload.losses(boss(inputs), targets).mean().backward()
        optimizer.step()
    after = workload.evaluate(boss, torch.device("cpu"))
    assert (before.name, before.higher_is_better) == ("test_perplexity", False)
    assert after.value < before.value / 4 and boss.training
    assert math.log(after.value) == pytest.approx(mean_loss(boss, workload._blocks("test")))


def with_test_part(data: Path, text: str) -> LanguageModel:
    """The same text but for one section that is held out."""
    made = load_workload("lm", data=data)
    assert isinstance(made, LanguageModel)
    made.documents = dataclasses.replace(made.documents, test=[text])
    return made


@pytest.mark.parametrize("part", ["test", "validation"])
def test_an_edit_of_a_held_out_section_is_evaluated(data: Path, workload: LanguageModel, part: str) -> None:
    before = workload._blocks(part)
    edited = [section.upper() for section in getattr(workload.documents, part)]
    other = load_workload("lm", data=data)
    assert isinstance(other, LanguageModel)
    other.documents = dataclasses.replace(workload.documents, **{part: edited})
    assert other.fingerprint() == workload.fingerprint()
    found = other._blocks(part)
    tokens = workload.subwords.encode_whole(edited, last=END).tokens
    assert found[0].tolist() == tokens[: BLOCK + 1].tolist() != before[0].tolist()
    assert np.array_equal(workload._blocks(part), before)


def test_a_test_part_shorter_than_a_block_is_evaluated_and_said(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    few = with_test_part(data, "der Wind weht")
    boss = few.boss().eval()
    with caplog.at_level(logging.WARNING, "autoassist.workloads"):
        found = few.evaluate(boss, torch.device("cpu"))
    tokens = torch.from_numpy(few.subwords.encode_whole(["der Wind weht"], last=END).tokens.astype(np.int64))
    assert 2 < len(tokens) < BLOCK
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(boss(tokens[None, :-1])[0], tokens[1:])
    assert math.log(found.value) == pytest.approx(float(expected), rel=1e-4)
    assert f"{len(tokens) - 1} subwords in the test part, too few to judge by; give more text" in caplog.text


def test_a_training_part_shorter_than_a_block_is_refused(tmp_path: Path) -> None:
    for number, text in enumerate(("der Wind", "ein Hund", "das Haus", "die Gasse")):
        (tmp_path / f"{number}.txt").write_text(text)
    with pytest.raises(DataError, match="less than a block of 128 subwords to train on; give more text"):
        load_workload("lm", data=tmp_path).fingerprint()


def test_selected_are_the_tokens_that_lose_most_beyond_the_reference() -> None:
    losses = torch.tensor([[5.0, 1.0, 3.0, 2.0], [1.0, 1.0, 1.0, 4.0]], requires_grad=True)
    reference = torch.tensor([[4.9, 0.0, 0.5, 1.9], [0.0, 2.0, 0.5, 4.5]])
    found = mean_of_selected(losses, reference, 2)
    assert found.tolist() == [2.0, 1.0]
    found.sum().backward()
    assert losses.grad is not None and losses.grad.tolist() == [[0, 0.5, 0.5, 0], [0.5, 0, 0.5, 0]]


def test_with_a_reference_its_losses_travel_beside_the_targets(
    data: Path, workload: LanguageModel, reference: Path
) -> None:
    selecting = load_workload("lm", data=data, token_share=0.5, reference=reference)
    validate_workload(selecting)
    assert selecting.fingerprint() == workload.fingerprint()
    inputs, targets = selecting.batch([3])
    boss = workload.boss().eval()
    boss.load_state_dict(torch.load(reference / "boss.pt", weights_only=True))
    with torch.no_grad():
        own = torch.nn.functional.cross_entropy(boss(inputs)[0], targets[0, 0], reduction="none")
    assert targets.shape == (1, 2, BLOCK)
    assert torch.allclose(targets[0, 1] / 1024, own, atol=0.01)


def test_half_of_the_tokens_are_half_of_the_tokens(data: Path, reference: Path) -> None:
    selecting = load_workload("lm", data=data, token_share=0.5, reference=reference)
    boss = selecting.boss().eval()
    inputs, targets = selecting.batch([3])
    outputs = boss(inputs).detach().requires_grad_()
    selecting.losses(outputs, targets).sum().backward()
    assert outputs.grad is not None
    assert int((outputs.grad.abs().sum(dim=2) > 0).sum()) == BLOCK // 2


def test_a_token_share_wants_a_reference_and_a_reference_a_share(data: Path, reference: Path) -> None:
    for given in ({"token_share": 0.5}, {"reference": reference}):
        with pytest.raises(SettingError, match="give both --token-share below 1 and --reference RUN_DIR, or neither"):
            load_workload("lm", data=data, **given)
    with pytest.raises(SettingError, match=r"token_share=0: must lie in \(0, 1\]|token_share=0\.0: must lie in"):
        load_workload("lm", data=data, token_share=0.0, reference=reference)


def test_a_reference_that_is_none_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    missing = load_workload("lm", data=data, token_share=0.5, reference=tmp_path)
    with pytest.raises(DataError, match="give --reference the directory of a finished run"):
        missing.fingerprint()
    torch.save({"weight": torch.zeros(1)}, tmp_path / "boss.pt")
    with pytest.raises(DataError, match="is of no language model"):
        load_workload("lm", data=data, token_share=0.5, reference=tmp_path).fingerprint()


def test_other_workloads_select_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="workload digits selects no tokens; leave out --token-share, or run lm"):
        load_workload("digits", token_share=0.5)
    with pytest.raises(SettingError, match="workload digits selects no tokens; leave out --reference, or run lm"):
        load_workload("digits", reference=tmp_path)


def test_without_data_or_with_an_unknown_model_it_says_what_it_needs() -> None:
    with pytest.raises(SettingError, match="data is missing; lm needs --data, a text file or a directory of them"):
        LanguageModel().fingerprint()
    with pytest.raises(WorkloadError, match="model 'huge' is unknown; use tiny, small, base"):
        LanguageModel(model="huge")


def test_features_and_preview_are_of_the_blocks_text(workload: LanguageModel) -> None:
    features = workload.features()
    assert features is not None and len(features) == workload.fingerprint().n
    assert set(workload.preview(0).split()[1:-1]) <= set(WORDS)


def test_sections_end_with_a_paragraph_and_hold_all_of_the_text() -> None:
    text = "\n\n".join(f"{i} " * 300 for i in range(20))
    found = list(sections(text))
    assert "\n\n".join(found).split() == text.split()
    assert len(found) > 5 and all(len(section) >= 2000 for section in found[:-1])


def test_lines_without_a_blank_one_are_cut_at_their_ends(tmp_path: Path) -> None:
    lines = [f"{number} der Wind weht durch alte Gassen" for number in range(1000)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    documents = read_documents(tmp_path / "lines.txt")
    found = [*documents.train, *documents.validation, *documents.test]
    assert sorted("\n".join(found).split("\n")) == sorted(lines) and len(found) > 10
    assert sum(2000 <= len(section) < 2100 for section in found) >= len(found) - 1


def test_text_that_blank_lines_cut_well_enough_keeps_its_long_paragraphs(tmp_path: Path) -> None:
    paragraphs = ["\n".join(f"{name} {number} leise" for number in range(900)) for name in "abcd"]
    (tmp_path / "long.txt").write_text("\n\n".join(paragraphs))
    documents = read_documents(tmp_path / "long.txt")
    assert sorted([*documents.train, *documents.validation, *documents.test]) == paragraphs
    assert documents.digest() == "b8f65230e5127c7a"


def test_one_line_that_is_too_long_is_refused_with_the_way_to_cut_it(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("der Wind weht " * 2000)
    with pytest.raises(DataError, match=r"1 different sections, cut after 2000 .*more text, or break longer lines"):
        read_documents(tmp_path / "line.txt")


def test_the_same_section_never_lies_in_two_parts(tmp_path: Path) -> None:
    write(tmp_path / "a", files=8)
    for file in list((tmp_path / "a").iterdir()):
        (tmp_path / "a" / f"copy-{file.name}").write_bytes(file.read_bytes())
    documents = read_documents(tmp_path / "a")
    parts = [set(documents.train), set(documents.validation), set(documents.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert len(documents.train) == 2 * len(parts[0])


def test_of_a_directory_the_text_files_are_read_in_order(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.TXT", "a/code.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in text_files(tmp_path)] == ["z.TXT", "b.md"]


def test_what_is_no_text_or_too_little_is_refused_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.txt, \.text, \.md, \.rst file below it"):
        read_documents(tmp_path)
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    with pytest.raises(DataError, match=r"bad\.txt: byte 3 is not UTF-8"):
        read_documents(tmp_path)
    (tmp_path / "bad.txt").write_text("short")
    with pytest.raises(DataError, match="give more text"):
        read_documents(tmp_path)
    with pytest.raises(DataError, match=r"nowhere: No such file or directory"):
        read_documents(tmp_path / "nowhere")
