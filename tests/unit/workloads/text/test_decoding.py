"""Beam search finds better translations than greed, one at a time or many, and always ends."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from workloads.text.decoding import Search, beam_search, most_tokens, translate
from workloads.text.sizes import SIZES
from workloads.text.subwords import BEGIN, END, PAD, Sequences
from workloads.text.transformer import Transformer

A, B, C = 4, 5, 6
TOKENS = 12
SLOW = 9
"""A source that begins with it lets no translation end before its tenth token."""


class Chain:
    """A model whose next token follows from the last one alone; ``table`` gives the probabilities."""

    def __init__(self, table: dict[int, dict[int, float]]) -> None:
        self.logits = torch.full((TOKENS, TOKENS), -1e4)
        for last, following in table.items():
            for token, probability in following.items():
                self.logits[last, token] = math.log(probability)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        return source, source

    def begin(self, memory: Tensor) -> list[list[Tensor]]:
        return [[memory, memory]]

    def step(self, tokens: Tensor, place: int, caches: Any, mask: Tensor) -> tuple[Tensor, Any]:
        logits = self.logits[tokens].clone()
        logits[caches[0][0][:, 0] == SLOW, END] -= 1e4 if place < 9 else 0.0
        return logits, caches


def search(model: Any, beam: int, length_penalty: float = 0.0, rows: int = 1) -> list[list[int]]:
    return beam_search(model, torch.full((rows, 3), END), Search(beam, length_penalty))


def test_a_beam_finds_what_greed_misses() -> None:
    trap = Chain({BEGIN: {A: 0.6, B: 0.4}, A: {A: 0.1, B: 0.2, C: 0.3, END: 0.4}, B: {END: 1.0}, C: {END: 1.0}})
    assert search(trap, beam=1) == [[A]]
    assert search(trap, beam=2) == [[B]]


def test_the_length_penalty_prefers_longer_hypotheses() -> None:
    choice = Chain({BEGIN: {A: 0.5, B: 0.5}, A: {END: 1.0}, B: {C: 0.95, END: 0.05}, C: {END: 1.0}})
    assert search(choice, beam=2, length_penalty=0.0) == [[A]]
    assert search(choice, beam=2, length_penalty=1.0) == [[B, C]]


def test_a_sentence_that_is_done_is_not_changed_by_one_beside_it_that_takes_longer() -> None:
    """A longer hypothesis would overtake it by its length alone."""
    longer = {token: {token + 1: 1.0} for token in range(B, TOKENS - 1)}
    model = Chain({BEGIN: {A: 0.6, B: 0.4}, A: {END: 1.0}, **longer, TOKENS - 1: {END: 1.0}})
    sources = torch.tensor([[A, END], [SLOW, END]])
    alone = beam_search(model, sources[:1], Search(beam=2, length_penalty=1.0))  # type: ignore[arg-type]
    together = beam_search(model, sources, Search(beam=2, length_penalty=1.0))  # type: ignore[arg-type]
    assert alone == [[A]] == together[:1] and len(together[1]) > 6


def test_padding_and_begin_are_never_chosen() -> None:
    tempting = Chain({BEGIN: {PAD: 0.5, BEGIN: 0.4, A: 0.1}, A: {PAD: 0.9, END: 0.1}})
    assert search(tempting, beam=2) == [[A]]


@pytest.mark.parametrize("beam", [1, 2])
def test_what_never_ends_is_given_up(beam: int) -> None:
    endless = Chain({BEGIN: {A: 1.0}, A: {A: 0.9, B: 0.1}, B: {A: 1.0}})
    (found,) = search(endless, beam=beam)
    assert found == [A] * most_tokens(3)


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(4)
    return Transformer(SIZES["tiny"], 40).eval()


def test_step_by_step_the_model_says_what_it_says_at_once(model: Transformer) -> None:
    source = torch.tensor([[7, 8, 9, END, PAD], [5, 6, 11, 12, END]])
    target = torch.tensor([[BEGIN, 20, 21, 22, 23], [BEGIN, 30, 31, 32, 33]])
    with torch.no_grad():
        at_once = model(torch.stack([source, target], dim=1)).view(2, 5, -1)
        memory, mask = model.encode(source)
        caches = model.begin(memory)
        for place in range(5):
            logits, caches = model.step(target[:, place], place, caches, mask)
            assert torch.allclose(logits, at_once[:, place], atol=1e-5)


@pytest.mark.parametrize("beam", [1, 3])
def test_a_sentence_is_translated_the_same_alone_and_among_others(model: Transformer, beam: int) -> None:
    texts = [[7, 8, 9], [5, 6, 11, 12, 13, 14, 15], [9], [8, 8, 8, 8]]
    with torch.no_grad():
        together = translate(model, Sequences.of(texts), Search(beam))
        alone = [translate(model, Sequences.of([text]), Search(beam))[0] for text in texts]
    # Those of one length bound: how far a hopeless one goes depends on the longest beside it.
    assert [a[:8] for a in together] == [b[:8] for b in alone]


def test_the_loss_of_a_batch_looks_at_no_later_token(model: Transformer) -> None:
    source, target = torch.tensor([[7, 8, END]]), torch.tensor([[BEGIN, 20, 21]])
    changed = torch.tensor([[BEGIN, 20, 39]])
    with torch.no_grad():
        one, other = (model(torch.stack([source, t], dim=1)) for t in (target, changed))
    assert torch.equal(one[:2], other[:2]) and not torch.equal(one[2], other[2])
