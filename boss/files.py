"""The Boss's files, written whole or not at all; of a disk that does not take one, its own words and not torch's."""

from __future__ import annotations

import copy
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from protocol.errors import StoreError


def save_weights(boss: nn.Module, path: Path) -> None:
    """Write the trained Boss's ``state_dict`` atomically; read it with ``torch.load(path, weights_only=True)``.

    Raises StoreError.
    """
    part = path.with_name(f"{path.name}.part")  # always the same: what a killed Boss has left is written over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(boss.state_dict(), part)
        part.replace(path)
    except OSError as error:
        remedy = (
            "free space there or make it writable, then go on from the newest checkpoint, if one is kept, by --resume"
        )
        raise StoreError(f"trained weights: {refused(path, error)}; {remedy}") from error


def write(content: dict[str, Any], path: Path) -> None:
    """Raises OSError, and leaves nothing, where it cannot be written whole. NumPy's numbers become Python's."""
    try:
        with path.open("wb") as file:
            torch.save(_plain(content), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            path.unlink()
        raise _of_file(error) from error


def _plain(value: Any) -> Any:
    """The same without NumPy's numbers, which ``weights_only`` does not read; a learning rate may be one."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        changed = {key: new for key, old in value.items() if (new := _plain(old)) is not old}
        if not changed:
            return value
        value = copy.copy(value)  # an OrderedDict of torch's carries more than its items
        value.update(changed)
    elif type(value) in (list, tuple):
        items = [_plain(item) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            return type(value)(items)
    return value


def refused(path: Path, error: OSError) -> str:
    """What could not be written, and why."""
    return f"{path} cannot be written ({error.strerror or error})"


def _of_file(error: BaseException) -> OSError:
    """What the file said: torch ends its archive meanwhile, which fails too, and raises a RuntimeError of that."""
    said: BaseException | None = error
    while said is not None:
        if isinstance(said, OSError):
            return OSError(said.errno, said.strerror) if said.strerror else OSError(str(said))
        said = said.__cause__ or said.__context__
    return OSError(f"torch: {str(error).splitlines()[0]}")
