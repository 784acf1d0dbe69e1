"""Instances for a person to look at: the page asks here, an Assistant that has the data answers.

The broker has no data and keeps none. A port of its own, since whoever looks may not speak: with keys it takes the same
keys as the statistics. Requests are few (one a second at most, over all pages); what is lost is asked for again.
"""

from __future__ import annotations

from dataclasses import dataclass

import zmq

from broker.guard import Guard
from broker.hub import Hub, Outgoing
from protocol.channels import ZmqBrokerChannel
from protocol.codec import decode, encode
from protocol.errors import ProtocolError
from protocol.messages import Envelope, Preview, PreviewReply
from protocol.security import STATISTICS, Key

EVERY_S = 1.0
"""Least time between two requests that are passed on."""
MAX_DRAIN = 16
"""Requests that are read in one iteration of the poll loop."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that is on its way."""

    assistant: str
    number: int
    line: bytes
    number_of_page: int


class Previews:
    """The port, and the latest request."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, key: Key | None) -> None:
        """Raises PortInUse or SettingError where the address cannot be had."""
        self.channel = ZmqBrokerChannel(context, address, key, STATISTICS)
        self.port = int(self.channel.address.rpartition(":")[2])
        self._asked: Asked | None = None
        self._number = 0
        self._next = 0.0

    def ask(self, hub: Hub, guard: Guard | None, now: float) -> list[Outgoing]:
        """Read what pages want; what is to be sent to an Assistant for it."""
        out: list[Outgoing] = []
        for _ in range(MAX_DRAIN):
            received = self.channel.receive()
            if received is None:
                break
            line, frames = received
            try:
                message = decode(frames).message
            except ProtocolError as error:
                hub.count_refused(error.cause, line)
                continue
            may_look = guard is None or guard.may_look(self.channel.speaker)
            if not isinstance(message, Preview) or not may_look:
                hub.count_refused("bad_message" if may_look else "key", line)
            elif now >= self._next:
                out += self._pass_on(line, message, hub, now)
        return out

    def _pass_on(self, line: bytes, wanted: Preview, hub: Hub, now: float) -> list[Outgoing]:
        """To one Assistant after the other, so that one that hangs does not keep them all from being seen."""
        able = sorted(c.name for c in hub.by_name.values() if c.previews and c.routing_id)
        if not able:
            return []
        self._next, self._number = now + EVERY_S, self._number + 1
        name = able[self._number % len(able)]
        self._asked = Asked(name, self._number, line, wanted.number)
        return hub.send(name, Preview(number=self._number, instances=wanted.instances), now)

    def answer(self, assistant: str, reply: PreviewReply) -> bool:
        """Pass an answer on; False for one that nobody has asked this Assistant for."""
        asked, self._asked = self._asked, None
        if asked is None or (assistant, reply.number) != (asked.assistant, asked.number):
            self._asked = asked
            return False
        message = PreviewReply(
            number=asked.number_of_page,
            assistant=assistant,
            groups=reply.groups,
            known=reply.known,
            set_aside=reply.set_aside,
            loss_edges=reply.loss_edges,
            loss_counts=reply.loss_counts,
            keep_counts=reply.keep_counts,
        )
        self.channel.send(asked.line, encode(Envelope(seq=0, span=1, ack=0, message=message)))
        return True
