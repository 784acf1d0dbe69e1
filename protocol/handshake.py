"""How the handshakes of a connecting socket end: libzmq says it on a monitor, and nowhere else."""

from __future__ import annotations

import uuid

import zmq
from zmq.utils.monitor import parse_monitor_message

TRIES = 5
"""So many failed handshakes in a row, without a cause given, and it is told."""
EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
MECHANISM_MISMATCH = zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH


class HandshakeWatch:
    """Watches one socket, made before it connects and closed before it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes], key_name: str = "") -> None:
        self._socket = socket
        self._key_name = key_name
        self._unexplained = 0
        self.succeeded = False
        """Whether the latest handshake has."""
        address = f"inproc://handshakes-{uuid.uuid4().hex}"
        socket.monitor(address, EVENTS)
        self.events = context.socket(zmq.PAIR)
        """For a poller: readable when a handshake has ended."""
        self.events.setsockopt(zmq.LINGER, 0)
        self.events.connect(address)

    def refusal(self) -> str:
        """Why there is no way in, with the remedy; "" where nothing was refused since the last call.

        After one libzmq does not connect again by itself.
        """
        found = ""
        while self.events.poll(0):
            event = parse_monitor_message(self.events.recv_multipart())
            found = self._judge(int(event["event"]), int(event["value"])) or found
        return found

    def _judge(self, event: int, value: int) -> str:
        self.succeeded = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        self._unexplained = self._unexplained + 1 if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL else 0
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            remedy = "autoassist keys list shows its allow-list, keys add makes another key"
            return f"the broker does not allow the key {self._key_name} here; {remedy}"
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == MECHANISM_MISMATCH:
            if self._key_name:
                return "the broker was started without keys; start it with --keys DIR, or leave --keys out here"
            return "the broker wants a key; give --keys with the file of this role's key"
        return ""

    @property
    def doubt(self) -> str:
        """What may be wrong where whoever answers hangs up time and again; "" where nobody does.

        No refusal: a proxy whose broker has not started yet does the same.
        """
        if self._unexplained < TRIES:
            return ""
        if self._key_name:
            why = f"it is not the broker that the key {self._key_name} names, or was started without --keys"
        else:
            why = "it is no broker, or one that wants a key (--keys)"
        return f"who answers hangs up: {why}"

    def close(self) -> None:
        """Stop watching. Called twice it does nothing."""
        if not self.events.closed:
            self._socket.disable_monitor()
            self.events.close()
