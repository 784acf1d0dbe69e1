"""The file in which a Boss leaves its weights now and then, for whoever runs its network elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protocol.errors import DataError

STEP, BOSS = "step", "boss"


def snapshot_content(step: int, weights: dict[str, Tensor]) -> dict[str, Any]:
    """What the file holds: the Boss's weights as they were after ``step``."""
    return {STEP: step, BOSS: weights}


def read_snapshot(path: Path) -> tuple[int, dict[str, Tensor]] | None:
    """(step, weights on the CPU); None where there is no file yet.

    Raises DataError where it cannot be read, is damaged, or is no snapshot.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch says of a damaged file what it stumbles over, in many ways
        words = str(error).splitlines() or [type(error).__name__]
        # Of what cannot be decoded torch's own words advise to load it without a check.
        why = "it is damaged, or no snapshot" if type(error).__name__ == "UnpicklingError" else words[0]
        raise _of_no_use(path, why) from None
    if not isinstance(content, dict) or set(content) != {STEP, BOSS}:
        raise _of_no_use(path, "it is no snapshot")
    step, weights = content[STEP], content[BOSS]
    if type(step) is not int or not isinstance(weights, dict):
        raise _of_no_use(path, "it is no snapshot")
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        raise _of_no_use(path, "it is no snapshot")
    return step, weights


def _of_no_use(path: Path, why: str) -> DataError:
    return DataError(f"{path}: {why}; give the file of the Boss's --snapshots, or remove it: the Boss writes another")
