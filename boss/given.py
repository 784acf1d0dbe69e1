"""What a training script gives to its feed, checked before anything is connected."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from protocol.errors import SettingError
from protocol.settings import RunSettings, require


def require_one_rank(settings: RunSettings) -> None:
    """Raises SettingError for several ranks, which the broker serves and the feed does not yet."""
    require(settings.world_size == 1, "world_size", settings.world_size, "one Boss process only, so far; leave it at 1")


def settings_from(given: dict[str, Any]) -> RunSettings:
    """Run settings from keyword arguments; raises SettingError."""
    try:
        return RunSettings(**given)
    except TypeError as error:
        raise SettingError(f"Feed.connect: {error}; the settings are the fields of RunSettings") from None


def size_of(dataset: Sized | None) -> int:
    """Instances of the data set; raises SettingError where none is given."""
    if dataset is None:
        raise SettingError("Feed.connect: neither dataset nor n is given; pass dataset=train_set")
    return len(dataset)
