"""What all messages have in common: how they are delivered, and what a number or a name in them may be."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, ClassVar

import msgspec

# What a number or a name may be, checked on receipt. Sums and differences of two numbers still fit in 64 bits.
MAX_TEXT = 200
"""Characters of a word of theirs that the broker keeps and shows."""
Number = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Name = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Figures = Annotated[dict[Name, float], msgspec.Meta(max_length=1000)]


class Delivery(Enum):
    """How a message is delivered; see the top of protocol/messages.py."""

    SESSION = "session"
    RELIABLE = "reliable"
    LATEST = "latest"


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, kw_only=True):
    """Base of all messages."""

    delivery: ClassVar[Delivery] = Delivery.RELIABLE
