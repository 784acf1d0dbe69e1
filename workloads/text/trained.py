"""Weights of a finished run, read so that damage is said with the file's name."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import EINVAL
from pathlib import Path

import torch
from torch import Tensor

from protocol.errors import DataError
from workloads.text.subwords import Subwords

_DAMAGE = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)
"""What torch and sentencepiece raise over weights that are cut off, empty, no weights, or of another shape."""


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Raises DataError with the name of the file for what it holds that cannot be right."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":  # of a module that nothing here is to import
            reason = "it holds no weights"  # torch explains at length how to load it all the same
        elif isinstance(error, _DAMAGE) or _is_of_the_content(error):
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" …")
        else:
            raise
        raise DataError(f"{path} is damaged ({reason}); train again, or bring the file back") from error


def _is_of_the_content(error: Exception) -> bool:
    """Torch looks for the end of some files before their beginning, which the system refuses."""
    return isinstance(error, OSError) and error.errno in (None, EINVAL)


def read_trained(path: Path) -> Mapping[str, Tensor]:
    """Weights by name, in host memory; raises DataError where they are damaged, OSError where none can be read."""
    with damage_named(path):
        weights: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(weights, Mapping):
            raise TypeError(f"a {type(weights).__name__} in place of weights by name")
        return weights


def trained_subwords(weights: Mapping[str, Tensor]) -> Subwords:
    """The subwords that are kept with weights; raises one of the errors that ``damage_named`` names."""
    subwords, rows = Subwords(bytes(weights["vocabulary"].tolist())), len(weights["embedding.weight"])
    if subwords.size > rows:
        raise ValueError(f"{subwords.size} subwords, {rows} of them embedded")
    return subwords
