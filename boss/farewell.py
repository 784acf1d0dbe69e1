"""The end of a Boss: until when its last words are waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

from protocol.client import RoleClient

DRAIN_S = 10.0
"""How long a broker that answers may take to commit what was said."""
AWAY_S = 4.0
"""How long a broker that is away is waited for, where the run is not finished, or somebody wants to leave."""
LOOK_S = 0.5
"""How often it is looked whether somebody wants to leave."""


def is_committed(client: RoleClient, away_s: float, hurries: Callable[[], bool]) -> bool:
    """Whether the broker commits all that was said: it has ``DRAIN_S`` while it answers.

    One that does not answer has ``away_s`` to come back, and ``AWAY_S`` where somebody ``hurries``.
    """
    began = open_since = time.monotonic()
    away_until = began + max(away_s, DRAIN_S if client.is_open else 0.0)
    while not client.drain(LOOK_S):
        now = time.monotonic()
        if not client.is_open:
            open_since = now
            if now > (min(away_until, began + AWAY_S) if hurries() else away_until):
                return False
        elif now - open_since > DRAIN_S:
            return False
    return True
