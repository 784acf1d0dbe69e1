"""Beam search with a length penalty, many sentences at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workloads.text.subwords import BEGIN, END, PAD, Sequences, Subwords
from workloads.text.transformer import Transformer

MOST_ROWS = 512
"""Beams that are decoded at a time."""


@dataclass(frozen=True)
class Search:
    """How translations are looked for."""

    beam: int = 4
    """Hypotheses that are followed at a time; 1 is greedy."""
    length_penalty: float = 0.6
    """α of ((5 + length)/6)^α, by which the log-probability of a hypothesis is divided (Wu et al., 2016)."""

    def penalty(self, length: int) -> float:
        """What the log-probability of that many tokens is divided by."""
        return float(((5.0 + length) / 6.0) ** self.length_penalty)


def most_tokens(source_tokens: int) -> int:
    """Length at which a translation is given up."""
    return int(1.5 * source_tokens) + 10


@contextmanager
def averaged(boss: nn.Module) -> Iterator[Transformer]:
    """A Transformer with its averaged weights, in ``eval()`` and off gradients meanwhile: the running average, or the
    best evaluations' mean where that is the better one."""
    assert isinstance(boss, Transformer)
    was_training = boss.training
    boss.eval()
    with torch.no_grad(), (boss.best if boss.best.is_chosen else boss.average).in_place_of(boss):
        yield boss
    boss.train(was_training)


def translate_texts(
    model: nn.Module, subwords: Subwords, texts: Sequence[str], search: Search, device: torch.device | str = "cpu"
) -> list[str]:
    """Text to text by the averaged weights of a Transformer, in the same order; empty text stays empty."""
    with averaged(model) as transformer:
        found = translate(transformer, subwords.encode(texts), search, device)
    return [text if original.strip() else "" for text, original in zip(subwords.decode(found), texts, strict=True)]


def translate(
    model: Transformer, sources: Sequences, search: Search, device: torch.device | str = "cpu"
) -> list[list[int]]:
    """The best hypothesis for each source, END left out; the model is in ``eval()`` and off gradients."""
    found: list[list[int]] = [[] for _ in range(len(sources.lengths))]
    for ids in _by_length(sources.lengths, max(1, MOST_ROWS // search.beam)):
        width = int(sources.lengths[ids].max()) + 1
        rows = torch.from_numpy(sources.padded(ids, width, last=END)).to(device)
        for place, tokens in zip(ids.tolist(), beam_search(model, rows, search), strict=True):
            found[place] = tokens
    return found


def _by_length(lengths: np.ndarray, at_a_time: int) -> Iterator[np.ndarray]:
    order = np.argsort(lengths, kind="stable")
    for begin in range(0, len(order), at_a_time):
        yield order[begin : begin + at_a_time]


def beam_search(model: Transformer, source: Tensor, search: Search) -> list[list[int]]:
    """Of each row of ``source`` (B, S). A sentence is done once no hypothesis that goes on would be better than its
    best finished one if it ended with the next token for sure; a bound that always holds would search longer."""
    count, beam, most = len(source), search.beam, most_tokens(source.shape[1])
    memory, mask = model.encode(source.repeat_interleave(beam, dim=0))
    caches = model.begin(memory)
    scores = torch.full((count, beam), -math.inf, device=source.device)
    scores[:, 0] = 0.0
    tokens = torch.full((count * beam, 1), BEGIN, device=source.device)
    best, is_done = Best(count, most, source.device), torch.zeros(count, dtype=torch.bool, device=source.device)
    first_rows = torch.arange(count, device=source.device)[:, None] * beam
    for place in range(most):
        logits, caches = model.step(tokens[:, -1], place, caches, mask)
        logits[:, [PAD, BEGIN]] = -math.inf
        steps = logits.float().log_softmax(dim=-1).view(count, beam, -1)
        reached, chosen = (scores[:, :, None] + steps).flatten(1).topk(2 * beam, dim=1)
        parents, words = chosen // steps.shape[2], chosen % steps.shape[2]
        is_end = words == END
        ended = torch.where(is_end & ~is_done[:, None], reached, -math.inf)[:, :beam]
        best.offer(tokens, parents, ended / search.penalty(place + 1))
        going_on = torch.where(is_end, -math.inf, reached).topk(beam, dim=1)
        scores = going_on.values
        is_done |= best.scores >= scores[:, 0] / search.penalty(place + 2)
        if bool(is_done.all()):
            break
        rows = (first_rows + parents.gather(1, going_on.indices)).view(-1)
        tokens = torch.cat([tokens[rows], words.gather(1, going_on.indices).view(-1, 1)], dim=1)
        caches = [[cached[rows] for cached in cache[:2]] + cache[2:] for cache in caches]
    best.offer(tokens, torch.arange(beam, device=source.device).expand(count, beam), _if_none(best, scores))
    return best.sequences()


def _if_none(best: Best, scores: Tensor) -> Tensor:
    """Where nothing has finished, what is unfinished counts."""
    return torch.where(best.scores[:, None].isfinite(), -math.inf, scores)


class Best:
    """The best finished hypothesis of each sentence."""

    def __init__(self, count: int, most: int, device: torch.device) -> None:
        self.scores = torch.full((count,), -math.inf, device=device)
        self._tokens = torch.full((count, most + 1), PAD, device=device)

    def offer(self, tokens: Tensor, parents: Tensor, scores: Tensor) -> None:
        """Hypotheses that end now: ``parents`` (count, k) of the beams in ``tokens``, their scores, -inf for none."""
        found, place = scores.max(dim=1)
        is_better = found > self.scores
        beam = len(tokens) // len(scores)
        rows = torch.arange(len(scores), device=tokens.device) * beam + parents.gather(1, place[:, None])[:, 0]
        self.scores = torch.where(is_better, found, self.scores)
        ended = torch.full_like(self._tokens, PAD)
        ended[:, : tokens.shape[1]] = tokens[rows]
        self._tokens = torch.where(is_better[:, None], ended, self._tokens)

    def sequences(self) -> list[list[int]]:
        """Without BEGIN and padding."""
        return [[token for token in row[1:] if token != PAD] for row in self._tokens.tolist()]
