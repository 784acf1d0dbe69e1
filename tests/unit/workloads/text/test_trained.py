"""Damaged weights are refused with the file's name, and never as a fault of the program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from protocol.errors import DataError
from workloads.text.gpt import Gpt, reference_model, reference_subwords
from workloads.text.sizes import SIZES, Size
from workloads.text.subwords import Subwords, learn
from workloads.text.trained import damage_named, read_trained

Weights = dict[str, Tensor]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Weights of a language model."""
    vocabulary = learn(["der Wind weht durch alte Gassen"] * 20, 300)
    torch.save(Gpt(SIZES["tiny"], 300, vocabulary).state_dict(), tmp_path / "boss.pt")
    return tmp_path / "boss.pt"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5000],
        lambda content: content[: len(content) // 2],
        lambda content: b"no weights\n" * 9,
    ],
    ids=["empty", "cut off early", "cut off late", "text"],
)
def test_a_damaged_file_is_named_with_the_remedy(damage: Callable[[bytes], bytes], path: Path) -> None:
    path.write_bytes(damage(path.read_bytes()))
    for read in (read_trained, reference_subwords, reference_model):
        with pytest.raises(DataError, match=r"boss\.pt is damaged \(.*\); train again, or bring the file back") as said:
            read(path)
        assert len(str(said.value)) < 300 + len(str(path)) and "weights_only" not in str(said.value)


def test_a_file_of_something_else_than_weights_by_name_is_damaged(path: Path) -> None:
    torch.save(torch.zeros(2), path)
    with pytest.raises(DataError, match="a Tensor in place of weights by name"):
        read_trained(path)


def cut(name: str) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        weights[name] = weights[name][: len(weights[name]) // 2]

    return change


@pytest.mark.parametrize("name", ["embedding.weight", "norm.weight", "average.norm/weight"])
def test_weights_whose_shapes_are_cut_short_are_damaged(name: str, path: Path) -> None:
    weights = torch.load(path, weights_only=True)
    cut(name)(weights)
    torch.save(weights, path)
    with pytest.raises(DataError, match=r"boss\.pt is damaged \(RuntimeError: Error.*size mismatch"):
        reference_model(path)


@pytest.mark.parametrize("left", [0, 1, 0.5])
def test_a_vocabulary_that_is_cut_short_is_damage(left: float, path: Path) -> None:
    weights = torch.load(path, weights_only=True)
    weights["vocabulary"] = weights["vocabulary"][: int(left if left == 1 else left * len(weights["vocabulary"]))]
    torch.save(weights, path)
    with pytest.raises(DataError, match=r"boss\.pt is damaged"):
        reference_subwords(path)


def test_more_subwords_than_are_embedded_are_damage(path: Path) -> None:
    weights = torch.load(path, weights_only=True)
    weights["embedding.weight"] = weights["embedding.weight"][:100]
    torch.save(weights, path)
    with pytest.raises(DataError, match=r"\(ValueError: \d+ subwords, 100 of them embedded\)"):
        reference_subwords(path)


def test_a_reference_of_a_size_that_is_none_here_is_refused_by_its_size(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Size(width=32, heads=2, hidden=64, layers=2, subwords=400, peak_lr=1e-2)
    monkeypatch.setitem(SIZES, "tiny", other)
    with pytest.raises(DataError, match=r"boss\.pt: 1 layers of width 32, and no model here is like it; train"):
        reference_model(path)


def test_other_errors_are_not_called_damage(path: Path) -> None:
    with pytest.raises(PermissionError), damage_named(path):
        raise PermissionError(13, "Permission denied")


def test_an_empty_model_of_subwords_is_none() -> None:
    with pytest.raises(ValueError, match="an empty model of subwords"):
        Subwords(b"")


def test_texts_that_are_all_too_long_to_learn_subwords_from_are_refused() -> None:
    with pytest.raises(DataError, match="every text of the training part is empty or longer than 65536 bytes; break"):
        learn(["wort " * 20_000] * 3, 300)


def test_more_characters_than_subwords_are_refused_with_the_remedy() -> None:
    alphabet = "".join(chr(0x4E00 + i) for i in range(3000))
    with pytest.raises(DataError, match=r"no 300 subwords .*smaller than required_chars.*; name a --model with more"):
        learn([alphabet] * 3, 300)
