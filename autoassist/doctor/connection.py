"""Keys, and the way to a broker: looked at without joining a run."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import zmq

from autoassist.doctor.finding import Finding, error, note, ok, warning
from protocol.channels import ZmqRoleChannel
from protocol.client import ConnectSettings
from protocol.codec import decode, encode
from protocol.errors import AutoAssistError, PeerRefused, SettingError
from protocol.messages import Envelope, Heartbeat, Reject
from protocol.security import ALLOW_LIST, BROKER, MONITOR, Key, open_key, read_allow_list

LOOK_MS = 50
DIRECTORY_MODE = 0o022
"""What others may not do with a directory of keys."""


def keys(place: Path | None) -> Iterator[Finding]:
    """A directory of keys, or the file of one role: there, whole, of each other, and nobody else's to read."""
    if place is None:
        yield note(
            "keys", "none given: anybody who reaches the broker's port can move the run", "autoassist keys init keys"
        )
        return
    files = [place] if not place.is_dir() else sorted(place.glob("*.key"))
    found: dict[str, Key] = {}
    for path in files:
        try:
            found[path.stem] = Key.read(path)
        except SettingError as failure:
            yield _said(failure)
    if not files:
        yield error("keys", f"{place}: holds no key", f"autoassist keys init {place}, or copy the role's file there")
    if place.is_dir():
        yield from _directory(place, found)
    for name, key in found.items():
        yield ok("keys", f"{name}: whole, and its owner's alone{'' if key.broker else ' (the broker’s own)'}")


def _said(failure: AutoAssistError, check: str = "keys") -> Finding:
    """What the thing itself says of what is wrong with it, and of what to do."""
    told, _, remedy = str(failure).partition("; ")
    return error(check, told, remedy)


def _directory(place: Path, found: dict[str, Key]) -> Iterator[Finding]:
    mode = place.stat().st_mode & 0o777
    if mode & DIRECTORY_MODE:
        yield error("keys", f"{place}: others can put files there (mode {mode:o})", f"chmod go-w {place}")
    if (broker := found.get(BROKER)) is None:
        return  # a host of a role has its own key alone
    try:
        allowed = read_allow_list(place / ALLOW_LIST)
    except SettingError as failure:
        yield _said(failure)
        return
    for name, key in found.items():
        if name == BROKER:
            continue
        if key.broker != broker.public:
            yield error("keys", f"{name}: names another broker's key", f"make it again: autoassist keys add {name}")
        elif key.public not in allowed:
            told = f"{name}: is not on {ALLOW_LIST}, so that the broker refuses it"
            yield warning("keys", told, f"remove {place / f'{name}.key'}, or make it again: autoassist keys add {name}")


def broker(address: str, place: Path | None, timeout_s: float) -> Iterator[Finding]:
    """Name, port, keys and protocol, one after the other; the first that fails is what is to be mended.

    The broker counts one piece of refused input, by a stranger, since nobody says Hello.
    """
    ConnectSettings(broker=address)
    try:
        key = _key_for(place) if place is not None else None
    except SettingError:
        yield note("broker", f"{address}: not looked for, for want of a key; see above")
        return
    if address.startswith("tcp://") and (problem := _unreachable(address, timeout_s)) is not None:
        yield problem
        return
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with closing(ZmqRoleChannel(context, address, key)) as channel:
            yield _knock(channel, address, key, timeout_s)
    except PeerRefused as refused:
        yield _said(refused, "broker")
    finally:
        context.destroy(linger=0)


def _key_for(place: Path) -> Key:
    """Of a role that speaks: a monitor only hears."""
    if not place.is_dir():
        return open_key(place, "boss")
    there = [path.stem for path in sorted(place.glob("*.key")) if path.stem not in (BROKER, MONITOR)]
    return open_key(place, there[0] if there else "boss")


def _unreachable(address: str, timeout_s: float) -> Finding | None:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s):
            return None
    except socket.gaierror as failure:
        return error("broker", f"{host}: {failure.strerror}", "correct the host's name, or its entry in DNS")
    except TimeoutError:
        told = f"{address}: no answer for {timeout_s:g} s"
        return error("broker", told, f"look whether a firewall lets port {port} through, and whether the host is up")
    except ConnectionRefusedError:
        told = f"{address}: the host is there, and nobody listens"
        return error(
            "broker", told, "start the broker, with --host of an address that others reach, or correct the port"
        )
    except OSError as failure:
        return error("broker", f"{address}: {failure.strerror}", "correct the address, or the network between")


def _knock(channel: ZmqRoleChannel, address: str, key: Key | None, timeout_s: float) -> Finding:
    """Who says no Hello is told so, by a broker of ours and by nobody else. Raises PeerRefused."""
    deadline, is_sent = time.monotonic() + timeout_s, False
    began = time.monotonic()
    while time.monotonic() < deadline:
        is_sent = is_sent or channel.send(encode(Envelope(seq=0, span=1, ack=0, message=Heartbeat(seq=0))))
        if (frames := channel.receive()) is not None:
            return _answered(frames, address, key, time.monotonic() - began)
        channel.socket.poll(LOOK_MS)
    if not is_sent:
        told = f"{address}: somebody listens, and does not speak ZeroMQ with {'this key' if key else 'no key'}"
        return error("broker", told, "give --keys as the broker was started, and look who listens there")
    return error(
        "broker", f"{address}: no answer for {timeout_s:g} s", "look whether the broker there is stopped or stuck"
    )


def _answered(frames: list[bytes], address: str, key: Key | None, seconds: float) -> Finding:
    try:
        answer = decode(frames).message
    except AutoAssistError as failure:
        return error("broker", f"{address}: answers what is no message ({failure})", "install the same version on both")
    if isinstance(answer, Reject) and answer.code == "resume":
        return ok(
            "broker", f"{address}: answers after {seconds * 1e3:.0f} ms{f', to the key {key.name}' if key else ''}"
        )
    if isinstance(answer, Reject):
        return error("broker", f"{address}: {answer.reason}", answer.remedy or "install the same version on both")
    return error("broker", f"{address}: answers with a {type(answer).__name__}", "look who listens there")
