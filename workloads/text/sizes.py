"""Sizes of the text models, by name. Apart from the models, so that an Assistant needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """What a model's name stands for."""

    width: int
    heads: int
    hidden: int
    layers: int
    subwords: int
    peak_lr: float
    dropout: float = 0.1


SIZES = {
    "tiny": Size(width=128, heads=4, hidden=512, layers=2, subwords=4000, peak_lr=2e-3),
    "small": Size(width=256, heads=4, hidden=1024, layers=3, subwords=4000, peak_lr=1e-3),
    "base": Size(width=512, heads=8, hidden=2048, layers=6, subwords=8000, peak_lr=7e-4),
}
DEFAULT_SIZE = "tiny"
