"""By which names a server is called: who reads a page by a name that a foreign DNS points here is not answered."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection


def is_this_host(header: str, names: Collection[str]) -> bool:
    """Whether a Host header is one of the names, or an address as number, which no foreign DNS can have answered."""
    name = header.strip().lower()
    if name.startswith("["):
        name, _, rest = name[1:].partition("]")
        if rest and not (rest.startswith(":") and rest[1:].isdigit()):
            return False
    elif name.count(":") == 1:
        name, _, port = name.partition(":")
        if not port.isdigit():
            return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


def names_of(host: str, allowed: Collection[str] = ()) -> frozenset[str]:
    """Names by which a server that listens at ``host`` may be called, beside its addresses."""
    return frozenset(name.lower() for name in ("localhost", host, socket.gethostname(), *allowed))
