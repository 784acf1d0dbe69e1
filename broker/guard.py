"""Who may connect, and as what: answers libzmq's questions about keys (ZAP), and checks what a key says of itself.

It lives in the broker's poll loop: no thread, one socket.
"""

from __future__ import annotations

import logging
from pathlib import Path

import zmq
from zmq.utils import z85

from broker.effects import Refuse
from protocol.errors import SettingError
from protocol.security import ALLOW_LIST, BROKER, MONITOR, SPEAKING, STATISTICS, Allowed, Key, read_allow_list

log = logging.getLogger("autoassist.broker")

ZAP_ADDRESS = "inproc://zeromq.zap.01"
MAX_ANSWERS = 256
"""Handshakes decided in one iteration of the loop; the rest waits for the next."""
MOST_TOLD = 100
"""Refused keys that the log names; all are counted."""


class Guard:
    """The broker's key, and the allow-list of the others. Made before the sockets that it guards bind.

    Raises SettingError where the directory holds no keys, or where others can read or change them.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Path) -> None:
        self.key = Key.read(keys / f"{BROKER}.key")
        self._path = keys / ALLOW_LIST
        self._stamp = self._look()
        self._allowed = read_allow_list(self._path)
        self._told: set[str] = set()
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ZAP_ADDRESS)

    def answer(self) -> list[str]:
        """Let in, or not, who has connected since the last call; returns a cause for each that was refused."""
        self._refresh()
        causes = []
        for _ in range(MAX_ANSWERS):
            try:
                asked = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            public = z85.encode(asked[6]).decode() if len(asked) == 7 else ""  # without a key it has fewer
            cause = self._refused_because(public, asked[2].decode(errors="replace"), asked[3].decode(errors="replace"))
            causes += [cause] if cause else []
            status = [b"400", b"no such key", b""] if cause else [b"200", b"OK", public.encode()]
            self.socket.send_multipart([asked[0], asked[1], *status, b""])
        return causes

    def _refused_because(self, public: str, domain: str, address: str) -> str:
        allowed = self._allowed.get(public)
        if allowed is None:
            self._tell(public, f"refused the key {public} from {address}: it is not in {self._path}")
            return "unknown_key"
        if _may(allowed, domain):
            return ""
        words = f"refused {allowed.name} from {address}: {_roles(allowed)}, not for the {domain} port"
        self._tell(public + domain, words)
        return "key"

    def _tell(self, what: str, words: str) -> None:
        """Once for each; a flood of new keys must not flood the log."""
        level = logging.DEBUG if what in self._told or len(self._told) >= MOST_TOLD else logging.WARNING
        if level == logging.WARNING:
            self._told.add(what)
        log.log(level, words)

    def refusal_of(self, public: str, name: str, role: str) -> Refuse | None:
        """Why the holder of a key may not speak as ``name``; None where it may. ``role`` is "" before its Hello.

        To be asked for each message: a key may be revoked, or lose a role, while it is connected.
        """
        allowed = self._allowed.get(public)
        if allowed is None or not _may(allowed, SPEAKING):
            reason = f"the key {public} is not, or no longer, on the broker's allow-list"
            return Refuse(name, "key", reason, "ask who runs the broker for a key: autoassist keys add")
        if role and role not in allowed.roles:
            reason = f"{name:.100} speaks as {role}, and {_roles(allowed)}"
            self._tell(f"{public} {role}", f"refused the key {allowed.name}: {reason}")
            remedy = f"give --keys with a key for the role {role}, made with keys add NAME --roles {role}"
            return Refuse(name, "key", reason, remedy)
        return None

    def may_look(self, public: str) -> bool:
        """Whether the holder of a key is a monitor, now."""
        allowed = self._allowed.get(public)
        return allowed is not None and _may(allowed, STATISTICS)

    def _look(self) -> tuple[int, int, int]:
        """What differs once the allow-list is another one."""
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def _refresh(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._allowed = read_allow_list(self._path)
        except SettingError as error:
            log.error("the allow-list stays as it was: %s", error)
            return
        log.info("%s has changed: %d keys are allowed", self._path, len(self._allowed))

    def close(self) -> None:
        """Nobody is let in any more."""
        self.socket.close()


def _may(allowed: Allowed, domain: str) -> bool:
    """Whether a key may use the port of a ZAP domain: to speak, or to hear the statistics."""
    return any((role != MONITOR) == (domain == SPEAKING) for role in allowed.roles)


def _roles(allowed: Allowed) -> str:
    return f"the key {allowed.name} is for {', '.join(allowed.roles)}"
