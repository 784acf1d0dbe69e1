"""Names of the built-in image models, checked without torch."""

from __future__ import annotations

import re

from protocol.errors import SettingError, WorkloadError

_RESNET = re.compile(r"resnet-?(\d+)")


def check_model(name: str) -> int | None:
    """The depth of a ResNet, None for the small CNN ("" or ``cnn``).

    Raises:
        WorkloadError: no such model.
        SettingError: a ResNet depth that is not 6n+2.
    """
    if name in ("", "cnn"):
        return None
    match = _RESNET.fullmatch(name.lower())
    if match is None:
        raise WorkloadError(f"model {name!r} is unknown; use cnn, resnet20, resnet32, resnet44, resnet56 or resnet110")
    return check_depth(int(match.group(1)))


def check_depth(depth: int) -> int:
    """``depth``, where it is 6n+2; SettingError that names the nearest where it is not."""
    if depth >= 8 and depth % 6 == 2:
        return depth
    below = max(8, depth - (depth - 2) % 6)
    nearest = "resnet8" if depth < 8 else f"resnet{below} or resnet{below + 6}"
    raise SettingError(f"resnet{depth}: a depth must be 6n+2 (8, 14, 20, …); use {nearest}")
