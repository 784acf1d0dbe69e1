"""The last words to roles that have said Goodbye: that it is committed, and that they may leave."""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.hub import Conversation, Hub, Outgoing, welcome_to
from broker.rows import RunRow
from broker.sending import let_roles_hang_up
from protocol.channels import ZmqBrokerChannel
from protocol.codec import decode, encode
from protocol.errors import ProtocolError
from protocol.messages import Envelope, Heartbeat, Hello

LATE_LOOK_MS = 50
LATE_MARGIN_S = 1.0
"""How long, beside its silence, a role may take to say Hello on a new line."""


class Farewells:
    """Of one broker process.

    A broker that was suspended finds a Goodbye on a line that its role has given up meanwhile: the answer goes nowhere,
    and the role, which says Hello on a new line, would look for a broker that has ended. So one that has stood still
    stays for as long as such a role needs.
    """

    def __init__(self, silence_s: float, now: float) -> None:
        self._silence_s = silence_s
        self._turned_at = now
        self._stood_still_at = -float("inf")
        self._last_words: dict[str, Outgoing] = {}
        self._left: dict[str, Conversation] = {}

    def turn(self, now: float) -> None:
        """The loop turns; it does many times a second, unless nobody lets it."""
        if now - self._turned_at > self._silence_s / 2:
            self._stood_still_at = now
        self._turned_at = now

    def say(self, hub: Hub, members: frozenset[str], now: float) -> list[Outgoing]:
        """To all in conversation who are no members any more; the conversations are forgotten."""
        said = []
        for name in [n for n in hub.by_name if n not in members]:
            self._left[name] = hub.by_name[name]
            last_words = hub.send(name, Heartbeat(seq=hub.by_name[name].stream.last_sent), now)
            self._last_words.update((name, words) for words in last_words)
            said += last_words
            hub.forget(name)
        return said

    def until_all_have_hung_up(
        self, channel: ZmqBrokerChannel, run: RunRow | None, let_in: Callable[[], object]
    ) -> None:
        """Return when those who have left have heard it, as far as can be told; ``let_in`` answers for new lines."""
        let_roles_hang_up(channel, list(self._last_words.values()))
        if run is not None and time.monotonic() - self._stood_still_at < 2 * self._silence_s:
            let_roles_hang_up(channel, self._answer_late(channel, run, let_in))

    def _answer_late(self, channel: ZmqBrokerChannel, run: RunRow, let_in: Callable[[], object]) -> list[Outgoing]:
        """Welcome roles that come again to hear what is committed of theirs; returns what they were told."""
        told, deadline = [], time.monotonic() + self._silence_s + LATE_MARGIN_S
        while self._left and time.monotonic() < deadline:
            let_in()
            if not channel.socket.poll(LATE_LOOK_MS) or (received := channel.receive()) is None:
                continue
            line, frames = received
            try:
                said = decode(frames).message
            except ProtocolError:
                continue  # garbage, and nobody counts any more
            if not isinstance(said, Hello):
                continue
            known = self._left.get(said.name)
            if known is not None and known.incarnation == said.incarnation:
                del self._left[known.name]
                welcome = Envelope(seq=0, span=1, ack=known.stream.committed, message=welcome_to(known, run))
                channel.send(line, encode(welcome))
                told.append((line, welcome))
        return told
