"""Asks, through the broker, an Assistant for instances to look at; and makes of its answer what a browser shows."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import zmq

from protocol.channels import ZmqRoleChannel
from protocol.codec import decode, encode
from protocol.errors import PeerRefused, ProtocolError, SettingError
from protocol.messages import Envelope, Preview, PreviewReply, Shown
from protocol.security import Key
from protocol.statistics import RunStatistics

EVERY_S = 3.0
"""Time between two wishes."""
PATIENCE_S = 10.0
"""Time without an answer after which the page says so."""
INSTANCES = 12

Clock = Callable[[], float]


class Looking:
    """The line to the broker's port of previews; one thread owns it."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], host: str, key: Key | None, clock: Clock = time.monotonic
    ) -> None:
        """``host`` is that of the statistics, as in ``tcp://host``."""
        self._context = context
        self._host = host
        self._key = key
        self._clock = clock
        self._channel: ZmqRoleChannel | None = None
        self._port = 0
        self._next = 0.0
        self._number = 0
        self._answered: float | None = None

    def turn(self, statistics: RunStatistics) -> PreviewReply | None:
        """Ask if it is time, and return what has been answered since."""
        if statistics.preview_port != self._port:
            self.close()
            self._port = statistics.preview_port
        if not self._port or not can_show(statistics):
            return None
        now = self._clock()
        self._answered = now if self._answered is None else self._answered
        if self._channel is None:
            try:
                self._channel = ZmqRoleChannel(self._context, f"{self._host}:{self._port}", self._key)
            except SettingError:  # a statistics address that is no host's
                return None
        if now >= self._next:
            self._next, self._number = now + EVERY_S, self._number + 1
            message = Preview(number=self._number, instances=INSTANCES)
            self._channel.send(encode(Envelope(seq=0, span=1, ack=0, message=message)))
        reply = self._receive()
        if reply is not None:
            self._answered = now
        return reply

    def _receive(self) -> PreviewReply | None:
        assert self._channel is not None
        latest = None
        try:
            while (frames := self._channel.receive()) is not None:
                message = decode(frames).message
                if isinstance(message, PreviewReply):
                    latest = message
        except (ProtocolError, PeerRefused):
            self.close()  # and begin anew: a broker of another version, or another key
        return latest

    def trouble(self, statistics: RunStatistics) -> str:
        """Why there is nothing to see; "" where there is."""
        if not statistics.preview_port:
            return "This broker passes on no instances: it listens beyond loopback without keys, or is an older one."
        if not can_show(statistics):
            return "No Assistant that shows instances is connected (or all were started with --no-previews)."
        if self._answered is not None and self._clock() - self._answered > PATIENCE_S:
            return "No Assistant answers; what is below is old."
        return ""

    def close(self) -> None:
        """Hang up."""
        if self._channel is not None:
            self._channel.close()
        self._channel = None


def can_show(statistics: RunStatistics) -> bool:
    """Whether there is anybody to ask."""
    return any(peer.previews for peer in statistics.peers)


def shown(reply: PreviewReply) -> dict[str, Any]:
    """For the browser: everything but the pixels."""
    return {
        "assistant": reply.assistant,
        "known": reply.known,
        "set_aside": reply.set_aside,
        "groups": {name: [_shown(one) for one in group] for name, group in reply.groups.items()},
        "loss_edges": reply.loss_edges.tolist(),
        "loss_counts": reply.loss_counts.tolist(),
        "keep_counts": reply.keep_counts.tolist(),
    }


def _shown(one: Shown) -> dict[str, Any]:
    return {
        "id": one.id,
        "label": one.label if one.label >= 0 else None,
        "trained": one.trained,
        "keep": one.keep_probability,
        "losses": one.losses.tolist(),
        "text": one.text,
        "picture": has_picture(one),
    }


def has_picture(one: Shown) -> bool:
    """Whether its pixels are as many as it says."""
    area = one.height * one.width
    return area > 0 and len(one.pixels) in (area, 3 * area)


def png(one: Shown) -> bytes:
    """Its picture."""
    from PIL import Image

    mode = "L" if len(one.pixels) == one.height * one.width else "RGB"
    target = io.BytesIO()
    Image.frombytes(mode, (one.width, one.height), one.pixels).save(target, "PNG")
    return target.getvalue()
