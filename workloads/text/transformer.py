"""An encoder-decoder Transformer (Vaswani et al., 2017), pre-norm, of ``torch.nn`` parts; it decodes step by step too.

Shapes: B sentences, S source tokens, T target tokens, D width, H heads, V subwords.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.text.averaging import BestAverages, WeightAverage
from workloads.text.sizes import DEFAULT_SIZE, SIZES, Size
from workloads.text.subwords import PAD, Subwords
from workloads.text.trained import trained_subwords

Cache = list[Tensor]
"""Keys and values of a decoder layer's own past, and of the source; each of shape (B, H, length, D/H)."""


class Attention(nn.Module):
    """Multi-head attention; keys and values may come from a cache."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.dropout = size.dropout
        self.query = nn.Linear(size.width, size.width)
        self.key_value = nn.Linear(size.width, 2 * size.width)
        self.out = nn.Linear(size.width, size.width)

    def keys_values(self, x_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Each of shape (B, H, S, D/H)."""
        keys, values = self.key_value(x_BSD).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self, x_BTD: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """``mask`` is True where attention may look, shape (B, 1, 1, S)."""
        dropout = self.dropout if self.training else 0.0
        queries = self._split(self.query(x_BTD))
        found = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, is_causal=causal)
        return self.out(found.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.view(*x_BTD.shape[:2], self.heads, -1).transpose(1, 2)


def feed_forward(size: Size) -> nn.Module:
    """Two linear layers with a ReLU between."""
    return nn.Sequential(
        nn.Linear(size.width, size.hidden), nn.ReLU(), nn.Dropout(size.dropout), nn.Linear(size.hidden, size.width)
    )


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each around a residual connection."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(size.width) for _ in range(2))
        self.attention = Attention(size)
        self.network = feed_forward(size)
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
        """Same shape as ``x``."""
        y = self.norms[0](x)
        x = x + self.dropout(self.attention(y, *self.attention.keys_values(y), mask, causal=causal))
        return x + self.dropout(self.network(self.norms[1](x)))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """As an encoder layer, with attention to the source in the middle."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(size.width) for _ in range(3))
        self.own, self.source = Attention(size), Attention(size)
        self.network = feed_forward(size)
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x: Tensor, cache: Cache, mask: Tensor, *, causal: bool) -> tuple[Tensor, Cache]:
        """``cache`` ends with the source's keys and values; two before them are this layer's own past, if any."""
        *past, source_keys, source_values = cache
        y = self.norms[0](x)
        own = self.own.keys_values(y)
        keys, values = (torch.cat(pair, dim=2) for pair in zip(past, own, strict=True)) if past else own
        x = x + self.dropout(self.own(y, keys, values, causal=causal))
        x = x + self.dropout(self.source(self.norms[1](x), source_keys, source_values, mask))
        return x + self.dropout(self.network(self.norms[2](x))), [keys, values, source_keys, source_values]


def positions(count: int, width: int, device: torch.device, *, begin: int = 0) -> Tensor:
    """Sinusoids, shape (count, width)."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angles = torch.arange(begin, begin + count, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Transformer(nn.Module):
    """Input: (B, 2, L) int64, the source with END and the target with BEGIN, PAD behind; output: logits.

    One matrix is embedding of both sides and output layer. On the CPU the logits are those of the real target tokens
    alone, shape (tokens, V), in the order of their rows: padding is not computed. On a GPU, where to count tokens would
    wait for it, they are (B, L, V). ``vocabulary`` is kept with the weights, so that these alone can translate.
    """

    def __init__(self, size: Size, subwords: int, vocabulary: bytes = b"") -> None:
        super().__init__()
        self.size = size
        self.register_buffer("vocabulary", torch.tensor(list(vocabulary), dtype=torch.uint8))
        self.embedding = nn.Embedding(subwords, size.width, padding_idx=PAD)
        self.encoder = nn.ModuleList(EncoderLayer(size) for _ in range(size.layers))
        self.decoder = nn.ModuleList(DecoderLayer(size) for _ in range(size.layers))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.dropout = nn.Dropout(size.dropout)
        nn.init.normal_(self.embedding.weight, std=size.width**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        self.average, self.best = WeightAverage(self), BestAverages()
        # The same on every rank without being sent.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        source, target = inputs[:, 0], inputs[:, 1]
        if not inputs.is_cuda:
            source, target = trimmed(source), trimmed(target)
        memory, mask = self.encode(source)
        hidden = self.embed(target)
        for layer, cache in zip(self.decoder, self.begin(memory), strict=True):
            hidden, _ = layer(hidden, cache, mask, causal=True)
        hidden = self.decoder_norm(hidden)
        if not inputs.is_cuda:
            hidden = hidden[target != PAD]
        return F.linear(hidden, self.embedding.weight)

    def embed(self, tokens: Tensor, begin: int = 0) -> Tensor:
        """With positions from ``begin`` on, shape (B, T, D)."""
        width = self.size.width
        places = positions(tokens.shape[1], width, tokens.device, begin=begin)
        return self.dropout(self.embedding(tokens) * width**0.5 + places)  # type: ignore[no-any-return]

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder looks at, (B, S, D), and where it may, (B, 1, 1, S)."""
        mask = (source != PAD)[:, None, None]
        x = self.embed(source)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x), mask

    def begin(self, memory: Tensor) -> list[Cache]:
        """A cache for each decoder layer, of the source alone."""
        return [list(layer.source.keys_values(memory)) for layer in self.decoder]  # type: ignore[operator, union-attr]

    def step(self, tokens: Tensor, place: int, caches: list[Cache], mask: Tensor) -> tuple[Tensor, list[Cache]]:
        """Logits of what follows the token of each row at ``place``, shape (B, V), and the caches with it."""
        hidden, after = self.embed(tokens[:, None], place), []
        for layer, cache in zip(self.decoder, caches, strict=True):
            hidden, longer = layer(hidden, cache, mask, causal=False)
            after.append(longer)
        return F.linear(self.decoder_norm(hidden[:, 0]), self.embedding.weight), after


def from_weights(weights: Mapping[str, Tensor], name: str) -> tuple[Transformer, Subwords]:
    """A model of the size ``name`` with trained weights, in ``eval()``, and the subwords that are kept with them."""
    subwords = trained_subwords(weights)
    model = Transformer(SIZES[name or DEFAULT_SIZE], len(weights["embedding.weight"]), subwords.model)
    model.load_state_dict(weights)
    return model.eval(), subwords


def trimmed(rows: Tensor) -> Tensor:
    """Without the columns that are padding in every row."""
    return rows[:, : int((rows != PAD).sum(dim=1).max())]


def token_losses(logits: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
    """Mean loss per target token of each row of ``targets`` (B, L), nats; shape (B,).

    Cross entropy against the smoothed target, less that target's own entropy: what is known by heart comes to 0. The
    gradient is the same, but a selection by the loss sees what is left to learn, without the floor of some 1.15 nats.
    """
    is_token = targets != PAD
    counts = is_token.sum(dim=1).clamp(min=1)
    if logits.ndim == 3:
        found = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, label_smoothing=smoothing, reduction="none"
        )
        sums = found.view(targets.shape).sum(dim=1)
    else:
        found = F.cross_entropy(logits, targets[is_token], label_smoothing=smoothing, reduction="none")
        rows = torch.arange(len(targets), device=targets.device).repeat_interleave(counts)
        sums = torch.zeros(len(targets), dtype=found.dtype, device=found.device).index_add(0, rows, found)
    return sums / counts - smoothed_entropy(logits.shape[-1], smoothing)


def smoothed_entropy(subwords: int, smoothing: float) -> float:
    """Of a smoothed target, nats: what no model gets below."""
    others = smoothing / subwords
    own = 1.0 - smoothing + others
    return -own * math.log(own) - ((subwords - 1) * others * math.log(others) if smoothing else 0.0)
