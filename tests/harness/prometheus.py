"""Prometheus and promtool for the tests: those of this host, or Debian's package, unpacked and never installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from workloads.cache import cache_dir

DOWNLOAD_S = 120.0
APT = ("apt-get", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10")


def needed(name: str) -> str:
    """Path of ``prometheus`` or ``promtool``; skips the test where it cannot be had."""
    found = _binary(name)
    if not found:
        pytest.skip(f"{name} is not here, nor does Debian's registry give it: apt-get install prometheus")
    return found


@cache
def _binary(name: str) -> str:
    """The package is kept in the user's cache folder, beside the data sets."""
    if here := shutil.which(name):
        return here
    place = cache_dir() / "debian-prometheus"
    found = place / "usr" / "bin" / name
    return str(found) if found.exists() or _fetch(place) else ""


def _fetch(place: Path) -> bool:
    """Whether the package lies unpacked at ``place`` now; another process may put it there meanwhile."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return False
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="debian-prometheus.") as folder:
        try:
            _run([*APT, "download", "prometheus"], folder)
            (package,) = Path(folder).glob("prometheus_*.deb")
            _run(["dpkg-deb", "-x", str(package), "unpacked"], folder)
        except (OSError, ValueError, subprocess.SubprocessError):
            return place.exists()
        try:
            (Path(folder) / "unpacked").rename(place)
        except OSError:
            return place.exists()
    return True


def _run(words: list[str], folder: str) -> None:
    subprocess.run(words, cwd=folder, capture_output=True, timeout=DOWNLOAD_S, check=True)
