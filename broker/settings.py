"""How a broker is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protocol.errors import SettingError
from protocol.settings import require

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class BrokerSettings:
    """Where the broker listens and where it keeps the run."""

    run_dir: Path
    """Directory of the run: store, logs, report."""

    port: int = 5555
    """TCP port for the roles; 0 for any free one."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs --keys, or --insecure."""

    statistics_port: int = 0
    """TCP port of the statistics publisher; 0 for any free one."""

    preview_port: int = 0
    """TCP port where the page (autoassist monitor) asks Assistants for instances to look at; 0 for any free one. It is
    not open beyond loopback without --keys."""

    keys: Path | None = None
    """Directory of keys, as autoassist keys init makes it: only who is on its allow-list may connect, encrypted."""

    insecure: bool = False
    """Listen beyond loopback without authentication: anybody who reaches the port can move the run."""

    resume: bool = False
    """Accept a run directory whose run is over, for a Boss that resumes it from a checkpoint."""

    drain_s: float = 10.0
    """How long roles have to say Goodbye once the run has ended."""

    def __post_init__(self) -> None:
        for name in ("port", "statistics_port", "preview_port"):
            require(0 <= getattr(self, name) <= 65535, name, getattr(self, name), "must lie in 0 … 65535")
        require(self.drain_s > 0, "drain_s", self.drain_s, "must be positive")
        require(self.keys is None or not self.insecure, "insecure", True, "contradicts --keys; give one of the two")
        if self.host not in LOOPBACK and self.keys is None and not self.insecure:
            raise SettingError(
                f"host={self.host}: is not loopback; give --keys DIR (autoassist keys init DIR makes them), or "
                "--insecure to listen there unauthenticated"
            )

    @property
    def shows_instances(self) -> bool:
        """Whether nobody but this machine's users, or holders of a key, can ask for them."""
        return self.host in LOOPBACK or self.keys is not None

    def address_of(self, port: int) -> str:
        """Where a port of this host is, as ZeroMQ writes it."""
        return f"tcp://[{self.host}]:{port}" if ":" in self.host else f"tcp://{self.host}:{port}"
