"""A small decoder-only Transformer, its token losses, and the selection of tokens (Rho-1).

Shapes: B blocks, L tokens, D width, V subwords.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from protocol.errors import DataError
from workloads.cache import file_lock, replacing, undamaged
from workloads.text.averaging import WeightAverage
from workloads.text.sizes import SIZES, Size
from workloads.text.subwords import Subwords
from workloads.text.trained import damage_named, read_trained, trained_subwords
from workloads.text.transformer import EncoderLayer, positions

BLOCKS_AT_A_TIME = 32


class Gpt(nn.Module):
    """Input: (B, L) int64; output: logits of the next token, (B, L, V). Embedding and output layer are one matrix.

    ``vocabulary`` is kept with the weights, so that these alone can be a reference.
    """

    def __init__(self, size: Size, subwords: int, vocabulary: bytes) -> None:
        super().__init__()
        self.register_buffer("vocabulary", torch.tensor(list(vocabulary), dtype=torch.uint8))
        self.embedding = nn.Embedding(subwords, size.width)
        self.layers = nn.ModuleList(EncoderLayer(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.dropout = nn.Dropout(size.dropout)
        nn.init.normal_(self.embedding.weight, std=size.width**-0.5)
        self.average = WeightAverage(self)
        # The same on every rank without being sent.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        width = self.embedding.weight.shape[1]
        places = positions(tokens.shape[1], width, tokens.device)
        x = self.dropout(self.embedding(tokens) * width**0.5 + places)
        for layer in self.layers:
            x = layer(x, None, causal=True)
        return F.linear(self.norm(x), self.embedding.weight)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of each token, nats, shape (B, L)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def mean_of_selected(losses: Tensor, reference: Tensor, count: int) -> Tensor:
    """Mean over the ``count`` tokens of each block whose excess loss, over the reference model's, is greatest; (B,).

    Lin et al., "Rho-1: Not All Tokens Are What You Need", NeurIPS 2024 (arXiv 2404.07965), equation 4. They take the
    top share of a whole batch; here it is that of each block, so that the loss of an instance is its own affair.
    """
    chosen = (losses.detach() - reference).topk(count, dim=1).indices
    return losses.gather(1, chosen).mean(dim=1)


@torch.no_grad()
def mean_loss(model: Gpt, blocks: NDArray[np.int32], device: torch.device | str = "cpu") -> float:
    """Of all tokens of ``blocks`` (n, L + 1) by the averaged weights, nats."""
    return float(np.mean([part.mean() for part in _losses_of(model, blocks, device)]))


def _losses_of(model: Gpt, blocks: NDArray[np.int32], device: torch.device | str) -> list[NDArray[np.float32]]:
    """Of each block, part by part; parts have one size, but for the last, which is made whole with blocks again."""
    found = []
    was_training = model.training
    model.eval()
    with model.average.in_place_of(model):
        for begin in range(0, len(blocks), BLOCKS_AT_A_TIME):
            tokens = torch.from_numpy(blocks[begin : begin + BLOCKS_AT_A_TIME].astype(np.int64)).to(device)
            found.append(token_losses(model(tokens[:, :-1]), tokens[:, 1:]).float().cpu().numpy())
    model.train(was_training)
    return found


def kept_reference_losses(folder: Path, weights: Path, blocks: NDArray[np.int32]) -> NDArray[np.float16]:
    """Each token's loss under a trained model, shape (n, L), mapped from the cache.

    Made by whoever comes first, or finds them damaged.
    """
    with weights.open("rb") as file:
        identity = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    path = folder / f"reference-{hashlib.sha256(blocks.tobytes()).hexdigest()[:16]}-{identity}.npy"
    with file_lock(path.with_name(f"{path.name}.lock")):
        found = undamaged([path], lambda: _read_losses(path, (len(blocks), blocks.shape[1] - 1)))
        if found is None:
            model = reference_model(weights)
            with torch.no_grad():
                losses = np.concatenate(_losses_of(model, blocks, "cpu")).astype(np.float16)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, losses)
            found = np.load(path, mmap_mode="r")
        return found


def _read_losses(path: Path, shape: tuple[int, int]) -> NDArray[np.float16]:
    """Mapped; ValueError for another shape, and for a last block of zeros, as which an end that was lost reads."""
    losses: NDArray[np.float16] = np.load(path, mmap_mode="r")
    if losses.shape != shape or losses.dtype != np.float16:
        raise ValueError(f"{losses.dtype} of shape {losses.shape}, expected float16 of {shape}")
    if not losses[-1].any():
        raise ValueError("no token of the last block loses anything")
    return losses


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Trained weights; raises DataError where they are damaged, or of no language model."""
    try:
        weights = read_trained(path)
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror or error}; give --reference the directory of a finished run"
        ) from None
    if "vocabulary" not in weights or "layers.0.norms.0.weight" not in weights:
        raise DataError(f"{path} is of no language model; give --reference the directory of a finished run of lm")
    return weights


def reference_subwords(path: Path) -> Subwords:
    """Those that are kept with trained weights; raises DataError where these are damaged."""
    weights = read_weights(path)
    with damage_named(path):
        return trained_subwords(weights)


def reference_model(path: Path) -> Gpt:
    """A model of the size of trained weights, with these; raises DataError where no size here fits them."""
    weights = read_weights(path)
    with damage_named(path):
        subwords, width = weights["embedding.weight"].shape
        layers = len({name.split(".")[1] for name in weights if name.startswith("layers.")})
        fitting = [size for size in SIZES.values() if (size.width, size.layers) == (width, layers)]
        if not fitting:
            raise DataError(f"{path}: {layers} layers of width {width}, and no model here is like it; train it again")
        model = Gpt(fitting[0], subwords, bytes(weights["vocabulary"].tolist()))
        model.load_state_dict(weights)
        return model


def perplexity(loss: float) -> float:
    """Of a mean loss in nats; infinite where that is more than a float holds."""
    return math.exp(loss) if loss < 700.0 else math.inf
