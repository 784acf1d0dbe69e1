"""``autoassist monitor``: the page of a run, for a browser."""

from __future__ import annotations

import importlib.util
import json
import logging
import secrets
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from autoassist.roles import Flat, LogSettings
from broker.settings import LOOPBACK
from protocol.errors import SettingError
from protocol.hosts import names_of
from protocol.security import MONITOR, open_key
from protocol.settings import require
from protocol.signals import StopSignal

log = logging.getLogger("autoassist.monitor")

DEFAULT_PORT = 8080
SHORTEST_TOKEN = 16
NEEDED = {"starlette": "starlette", "uvicorn": "uvicorn", "PIL": "pillow"}
"""Modules of the extra ``monitor``, and the packages that bring them."""


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """Where the page is, and who may look."""

    port: int = DEFAULT_PORT
    """TCP port of the page; the next free one where it is taken, 0 for any."""

    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback, and with --keys, the page asks for a token."""

    token_file: Path | None = None
    """File whose first line is the token; one is made and printed where the page needs it and none is given."""

    allow_host: tuple[str, ...] = ()
    """Further names by which browsers may call this host, those of a proxy before the page for one."""

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, "port", self.port, "must lie in 0 … 65535")
        require(bool(self.host), "host", self.host, "is empty; give an address of this host")

    def token(self, *, keyed: bool) -> str:
        """What a browser must show; "" for nothing: on loopback, for a run without keys."""
        if self.token_file is not None:
            return _read_token(self.token_file)
        return secrets.token_urlsafe(24) if keyed or self.host not in LOOPBACK else ""


@dataclass(frozen=True, kw_only=True)
class MonitorCommand:
    """Show a run in the browser: live charts, the flow of batches, and the instances. Changes nothing."""

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")] = ""
    """Run directory, or the statistics address tcp://host:port that the broker says at its start; the newest run under
    runs/ if not given."""
    page: Flat[PageSettings] = PageSettings()
    keys: Path | None = None
    """A monitor's key file, or the directory of keys that holds it; for a broker with keys."""
    announce: bool = False
    """Write one line with the page's address to standard output once it is there."""
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Serve until a signal comes; returns the exit code."""
        require_packages()
        from autoassist.monitor.gate import Admission
        from autoassist.monitor.serve import Site, address_of, listen, serve

        key = open_key(self.keys, MONITOR) if self.keys is not None else None
        token = self.page.token(keyed=key is not None)
        with StopSignal() as stop, listen(self.page.host, self.page.port) as listener:
            port = listener.getsockname()[1]
            if port != self.page.port != 0:
                log.warning("port %d is in use; the page is at port %d", self.page.port, port)
            address = address_of(listener) + (f"/?token={token}" if token else "")
            hosts = names_of(self.page.host, self.page.allow_host)
            admission = Admission(token=token, hosts=hosts, cookie=f"autoassist-{port}")
            serve(listener, Site(self.target, key, admission), stop, ready=lambda: self._tell(address, token))
            return 128 + stop.number if stop.requested else 0

    def _tell(self, address: str, token: str) -> None:
        if not self.announce:
            log.info("the page is at %s", address)
        else:  # whoever reads the one line tells the token, and the log, which may be kept, does not
            log.info("the page is at %s", address.partition("/?")[0] if token else address)
            sys.stdout.write(json.dumps({"page": address}) + "\n")
            sys.stdout.flush()


def packages_missing() -> list[str]:
    """What the page needs and is not installed."""
    return [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]


def require_packages() -> None:
    """Raises SettingError where the extra is not installed."""
    if missing := packages_missing():
        raise SettingError(f"monitor needs {' and '.join(missing)}; pip install 'autoassist[monitor]'")


def _read_token(path: Path) -> str:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        token = path.read_text(encoding="ascii").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"token_file={path}: {error}; give a file whose first line is the token") from None
    if mode & 0o077:
        raise SettingError(f"token_file={path}: others can read it (mode {mode:o}); chmod 600 {path}")
    if len(token) < SHORTEST_TOKEN or not all(c.isalnum() or c in "-._~" for c in token):
        raise SettingError(
            f"token_file={path}: its first line must be {SHORTEST_TOKEN} or more letters, digits or any of -._~; "
            f'python -c "import secrets; print(secrets.token_urlsafe())" makes one'
        )
    return token
