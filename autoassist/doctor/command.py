"""``autoassist doctor``: will it run here, and if not, what is to be done?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.text import Text

from autoassist.doctor import connection, disk, host, installation
from autoassist.doctor.finding import Finding, Level, looked_at
from autoassist.roles import Flat, LogSettings
from autoassist.terminal import shown
from protocol.settings import require

USUAL_PORTS = (5555, 8080, 9155)
"""Of the broker, the page, and the metrics."""
STYLES: dict[Level, str] = {"ok": "green", "note": "dim", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True, kw_only=True)
class DoctorCommand:
    """Look an installation over: Python, torch and device, packages, ports, keys, clock, disk, limits, and the way to a
    broker. Says what to do about each finding; exit code 1 where something will not work."""

    broker: str | None = None
    """A broker to reach: tcp://host:port. It counts one refused input, and no run is joined."""
    keys: Path | None = None
    """Directory of keys, or the key file of a role: looked at, and used for --broker."""
    run_dir: Path = Path("runs")
    """Where runs are to be kept."""
    ports: tuple[int, ...] = ()
    """Ports that must be free here; if not given, the usual ones are looked at, and may be in use."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the Boss is to compute."""
    timeout_s: float = 5.0
    """How long to wait for a broker."""
    json: bool = False
    """Print one JSON object: healthy, and findings."""
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Look, and say; returns the exit code."""
        require(self.timeout_s > 0, "timeout_s", self.timeout_s, "must be a positive number of seconds")
        for port in self.ports:
            require(1 <= port <= 65535, "ports", port, "must lie in 1 … 65535")
        findings = []
        console = Console(highlight=False, soft_wrap=True)
        for finding in self.findings():
            findings.append(finding)
            if not self.json:
                console.print(line(finding))
        healthy = not any(finding.level == "error" for finding in findings)
        if self.json:
            sys.stdout.write(msgspec.json.encode({"healthy": healthy, "findings": findings}).decode() + "\n")
        else:
            console.print(Text(summary(findings), style="bold"))
        return 0 if healthy else 1

    def findings(self) -> Iterator[Finding]:
        """Of all checks, in order."""
        from workloads.cache import cache_dir

        yield from looked_at("python", installation.python)
        yield from looked_at("packages", installation.packages)
        yield from looked_at("transport", installation.transport)
        yield from looked_at("torch", lambda: installation.torch_and_device(self.device))
        wanted = list(self.ports or USUAL_PORTS)
        yield from looked_at("ports", lambda: host.ports(wanted, is_asked=bool(self.ports)))
        yield from looked_at("keys", lambda: connection.keys(self.keys))
        yield from looked_at("clock", host.clocks)
        yield from looked_at("disk", lambda: disk.disk("runs", self.run_dir))
        yield from looked_at("disk", lambda: disk.disk("data", cache_dir()))
        yield from looked_at("shared memory", host.shared_memory)
        yield from looked_at("open files", host.open_files)
        yield from looked_at("memory", host.memory_and_cores)
        if self.broker is not None:
            address = self.broker
            yield from looked_at("broker", lambda: connection.broker(address, self.keys, self.timeout_s))


def line(finding: Finding) -> Text:
    """``warning  disk  …``, and below it what to do."""
    text = Text.assemble((f"{finding.level:<8}", STYLES[finding.level]), shown(f"{finding.check}: {finding.found}"))
    if finding.remedy:
        style = "bold" if finding.level in ("warning", "error") else "dim"
        text.append(f"\n{'':<8}→ ", style).append_text(shown(finding.remedy, style))
    return text


def summary(findings: list[Finding]) -> str:
    """The last line."""
    counts = {level: sum(f.level == level for f in findings) for level in ("error", "warning")}
    if not any(counts.values()):
        return "all is well"
    said = [f"{n} {level}{'s' if n > 1 else ''}" for level, n in counts.items() if n]
    return f"{' and '.join(said)}; what to do stands below each"
