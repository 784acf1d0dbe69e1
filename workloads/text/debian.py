"""Gettext catalogues from Debian packages, through apt's ordinary client; no root needed, nothing is installed."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workloads.cache import cache_dir, sha256_hex, write_atomically
from workloads.fetch import APT_OPTIONS, require_programs, run_client
from workloads.sources import Archive, Files, NothingThere, SourceFailed
from workloads.text.catalogues import log, read_all, sentence_pairs
from workloads.text.pairs import is_german, to_tsv

PAIRS_FILE = "pairs.tsv"
VERSION = 1
"""Part of the cached file's name; raise it whenever the same catalogues would give other pairs."""

SMALL = (
    *("gcc-12-locales", "libreoffice-l10n-de", "gnucash-common", "util-linux-locales", "wordpress-l10n", "subversion"),
    *("claws-mail-i18n", "cinnamon-l10n", "audacity-data", "gnupg-l10n", "kdevelop-l10n", "kile-l10n"),
    *("e2fsprogs-l10n", "libc-l10n", "evolution-data-server-common", "libglib2.0-data"),
)
"""28.7 MB to download, 53,000 pairs in Debian 12."""
MEDIUM = (
    *SMALL,
    *("git", "dpkg", "gramps", "mutt", "tar", "ktorrent-data", "coreutils", "aptitude-common", "libgtk-3-common"),
    *("gettext", "digikam-data", "evolution-common", "krita-l10n", "pidgin-data", "k3b-i18n", "darktable"),
    *("grub-common", "postgresql-15", "gajim"),
)
"""117.8 MB to download."""
LEAST_PAIRS = {"translation": 45_000, "translation-medium": 75_000}
"""With fewer, too many packages were missing for figures to compare."""
FEWEST_PAIRS = 5_000
"""With fewer, this source has failed."""

_MOST_CATALOGUE_BYTES = 1 << 26


@dataclass(frozen=True)
class CachedPairs:
    """What was parsed before. A damaged file is deleted, so that the next source replaces it."""

    name: str = "cache"
    keep: bool = False

    def fetch(self, archive: Archive) -> Files:
        """The pairs; NothingThere where there are none yet."""
        path = cached_pairs(archive)
        if not path.is_file():
            raise NothingThere(f"{path} is not there yet")
        digest, _, content = path.read_bytes().partition(b"\n")
        if digest.decode(errors="replace") != f"# {sha256_hex(content)}":
            path.unlink()
            raise SourceFailed(f"{path} is damaged (wrong SHA-256); deleted, fetching again")
        return {PAIRS_FILE: content}


@dataclass(frozen=True)
class DebianCatalogues:
    """The German catalogues of many packages, as clean pairs; a package that is not to be had is left out."""

    packages: Sequence[str]
    keep: bool = False

    @property
    def name(self) -> str:
        """How many packages."""
        return f"gettext catalogues of {len(self.packages)} Debian packages"

    def fetch(self, archive: Archive) -> Files:
        """Download into a temporary folder, parse, and keep the pairs in the cache; SourceFailed."""
        require_programs("apt-get", "apt-cache", "dpkg-deb")
        with tempfile.TemporaryDirectory(prefix="autoassist-") as scratch:
            found = download(self.packages, Path(scratch))
            folders = [unpack_catalogues(package) for package in found]
            pairs = sentence_pairs(read_all(path for folder in folders for path in sorted(folder.iterdir())))
        if len(pairs) < FEWEST_PAIRS:
            raise SourceFailed(f"{len(pairs)} pairs in {len(found)} packages, fewer than {FEWEST_PAIRS}")
        least = LEAST_PAIRS.get(archive.name, 0)
        if len(pairs) < least:
            log.warning("%s: %d pairs, fewer than %d: figures will differ", archive.name, len(pairs), least)
        content = to_tsv(pairs)
        write_atomically(cached_pairs(archive), f"# {sha256_hex(content)}\n".encode() + content)
        return {PAIRS_FILE: content}


def cached_pairs(archive: Archive) -> Path:
    """Where the cache keeps the parsed pairs."""
    return cache_dir() / "translation" / f"{archive.name}-v{VERSION}.tsv"


def download(packages: Sequence[str], scratch: Path) -> list[Path]:
    """Files of the packages that are to be had, in the order of ``packages``; each other one costs a line.

    Package lists that name none of them, or name versions that are gone, are refreshed once where that is possible.
    """
    known = known_packages(packages)
    if not known:
        _refresh(scratch)
        known = known_packages(packages)
    if not known:
        raise SourceFailed("apt knows none of the packages (package lists may be stale; apt-get update needs root)")
    reason = _try_to_download(known, scratch)
    if reason and os.geteuid() == 0:
        _refresh(scratch)
        reason = _try_to_download(known, scratch)
    by_name = {path.name.partition("_")[0]: path for path in scratch.glob("*.deb")}
    if not by_name:
        raise SourceFailed(reason or "apt-get download left no .deb")
    for package in packages:
        if package not in by_name:
            why = reason if package in known else "this Debian has no such package"
            log.warning("package %s is left out: %s", package, why)
    return [by_name[package] for package in packages if package in by_name]


def known_packages(packages: Sequence[str]) -> list[str]:
    """Those that apt can download, in the same order."""
    try:
        said = subprocess.run(
            ["apt-cache", "policy", *packages],
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceFailed(f"apt-cache policy failed: {error}") from error
    candidates = dict(re.findall(r"^(\S+):\n(?:  .*\n)*?  Candidate: (\S+)", said, re.MULTILINE))
    return [package for package in packages if candidates.get(package, "(none)") != "(none)"]


def _try_to_download(packages: Sequence[str], scratch: Path) -> str:
    """Download what can be had; why the rest cannot, "" where all could."""
    have = {path.name.partition("_")[0] for path in scratch.glob("*.deb")}
    try:
        run_client(["apt-get", *APT_OPTIONS, "download", *(p for p in packages if p not in have)], scratch, 600.0)
    except SourceFailed as failure:
        return str(failure)
    return ""


def _refresh(scratch: Path) -> None:
    if os.geteuid() == 0:
        log.info("refreshing the package lists once")
        with suppress(SourceFailed):  # the download will say what is wrong
            run_client(["apt-get", *APT_OPTIONS, "update"], scratch)


def unpack_catalogues(package: Path) -> Path:
    """The German ``.mo`` files of a package, in a new folder beside it; the rest is read past."""
    folder = package.with_suffix("")
    folder.mkdir()
    reader = subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert reader.stdout is not None
    try:
        with tarfile.open(fileobj=reader.stdout, mode="r|") as tar:
            for member in tar:
                path = member.name
                if member.isfile() and path.endswith(".mo") and is_german(path) and member.size < _MOST_CATALOGUE_BYTES:
                    content = tar.extractfile(member)
                    assert content is not None
                    (folder / path.strip("./").replace("/", "-")).write_bytes(content.read())
    except tarfile.TarError as error:
        log.warning("package %s is left out: %s", package.name, error)
    finally:
        reader.stdout.close()
        reader.wait()
    return folder
