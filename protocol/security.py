"""Keys: who may speak to the broker, and as what. CURVE encrypts, the allow-list decides.

A directory that ``autoassist keys init`` makes holds the broker's private key, a private key file for each role, and
the allow-list. The broker's host needs the first and the last; every other host needs one file, its role's: it holds
the broker's public key too. All are text of one entry a line.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from protocol.errors import SettingError

MONITOR = "monitor"
ROLES = ("assistant", "boss", MONITOR)
"""What a key may be for; a monitor hears the statistics and says nothing."""
BROKER = "broker"
ALLOW_LIST = "allowed.txt"
SPEAKING, STATISTICS = "roles", "statistics"
"""ZAP domains: the broker's two sockets."""
CURVE_OVERHEAD = 64
"""Bytes by which a frame is longer encrypted, and some."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LIST_HEAD = "# Who may connect: name, public key, roles. Read again when it changes; a key without a line is refused.\n"
KEY_HEAD = "# AutoAssist, a private key: for its own host alone, mode 600, in no repository and no image.\n"


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a private key file holds."""

    name: str
    public: str
    secret: str = field(repr=False)
    broker: str = ""
    """Public key of the broker to speak to; "" in the broker's own."""

    @classmethod
    def make(cls, name: str, broker: str = "") -> Key:
        """A new pair."""
        public, secret = zmq.curve_keypair()
        return cls(name=name, public=public.decode(), secret=secret.decode(), broker=broker)

    @classmethod
    def read(cls, path: Path) -> Key:
        """Raises SettingError where the file is none, or where others can read it."""
        text = _read(path, is_secret=True)
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        entries = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
        for name in ("name", "public", "secret"):
            if not entries.get(name):
                raise SettingError(f"{path}: has no line {name} = …; give a file that autoassist keys has made")
        broker = entries.get(BROKER, "")
        if (broker and not is_public_key(broker)) or _public_of(entries["secret"]) != entries["public"]:
            raise SettingError(f"{path}: its keys are damaged, or not of one pair; make it again: autoassist keys")
        return cls(name=entries["name"], public=entries["public"], secret=entries["secret"], broker=broker)

    def write(self, path: Path) -> None:
        """Make the file, readable by its owner alone from its first moment.

        Raises SettingError where there is one already, or none can be made.
        """
        entries = {"name": self.name, "public": self.public, "secret": self.secret}
        if self.broker:
            entries[BROKER] = self.broker
        text = KEY_HEAD + "".join(f"{name} = {value}\n" for name, value in entries.items())
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            raise SettingError(f"{path}: exists; a key is never overwritten, move it away first") from None
        except OSError as error:
            raise SettingError(f"{path}: {error.strerror}; choose a directory that can be written") from None
        _fill(descriptor, path, text, 0o600)


def open_key(keys: Path | str, role: str) -> Key:
    """The key of a role: ``keys`` is its file, or the directory where it lies under the role's name.

    Raises SettingError where there is none, where others can read it, and for the broker's own.
    """
    path = Path(keys)
    key = Key.read(path / f"{role}.key" if path.is_dir() else path)
    if not key.broker:
        raise SettingError(f"keys={path}: is the broker's own key; give the file of the role, {role}.key for one")
    return key


@dataclass(frozen=True)
class Allowed:
    """A line of the allow-list."""

    name: str
    public: str
    roles: tuple[str, ...]


def read_allow_list(path: Path) -> dict[str, Allowed]:
    """What is allowed, by public key; raises SettingError that names the line, or where others can write the file."""
    found: dict[str, Allowed] = {}
    for number, line in enumerate(_read(path, is_secret=False).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        name, public, roles = words[0], words[1] if len(words) > 1 else "", tuple(" ".join(words[2:]).split(","))
        roles = tuple(role.strip() for role in roles)
        unknown = [role for role in roles if role not in ROLES]
        if not NAME.fullmatch(name) or not is_public_key(public) or unknown:
            raise SettingError(f"{path}:{number}: give a name, a public key and roles out of {','.join(ROLES)}")
        if public in found or name in {other.name for other in found.values()}:
            raise SettingError(f"{path}:{number}: {name} or its key is there twice; leave one of the two")
        found[public] = Allowed(name, public, roles)
    return found


def write_allow_list(path: Path, allowed: Iterable[Allowed]) -> None:
    """Put the list in its place in one move: whoever reads it sees the old one or the new one."""
    lines = [f"{one.name} {one.public} {','.join(one.roles)}\n" for one in allowed]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        _fill(descriptor, temporary, LIST_HEAD + "".join(lines), 0o644)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SettingError(f"{path}: {error.strerror}; choose a directory that can be written") from None


def is_public_key(text: str) -> bool:
    """Whether this is 32 bytes as ZeroMQ writes them, 40 characters of Z85."""
    try:
        return len(text) == 40 and len(z85.decode(text.encode("ascii"))) == 32
    except (ValueError, KeyError, UnicodeEncodeError):
        return False


def secure_server(socket: zmq.Socket[bytes], key: Key, domain: str) -> None:
    """Take only what is encrypted to this key, and only from whom the ZAP handler lets in; before ``bind``."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
    socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # or a socket without a handler would let everybody in


def secure_client(socket: zmq.Socket[bytes], key: Key) -> None:
    """Speak as this key, and only to the broker that it names; before ``connect``."""
    socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
    socket.setsockopt(zmq.CURVE_SERVERKEY, key.broker.encode())


def _public_of(secret: str) -> str:
    return zmq.curve_public(secret.encode()).decode() if is_public_key(secret) else ""


def _fill(descriptor: int, path: Path, text: str, mode: int) -> None:
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, mode)  # whatever the umask
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _read(path: Path, *, is_secret: bool) -> str:
    """Text of a file that nobody else may read, or else write."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(1 << 20)
    except OSError as error:
        remedy = "autoassist keys init DIR makes keys; give --keys DIR, or the file of this role's key"
        raise SettingError(f"{path}: {error.strerror}; {remedy}") from None
    # A secret that an orchestrator mounts belongs to root, and reaches its process through the group.
    through_group = stat.S_IRGRP if found.st_uid != os.geteuid() else 0
    mode = stat.S_IMODE(found.st_mode)
    if is_secret and mode & 0o077 & ~through_group:
        raise SettingError(f"{path}: others can read or change it (mode {mode:o}), and it is secret; chmod 600 {path}")
    if not is_secret and mode & 0o022:
        raise SettingError(f"{path}: others can change it (mode {mode:o}), it says who may connect; chmod go-w {path}")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise SettingError(f"{path}: is not text; give a file that autoassist keys has made") from None
