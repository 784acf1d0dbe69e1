"""Catalogues come out of Debian packages, whatever of them this machine can have. No network: apt is a fake."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.workloads.text.test_catalogues import catalogue, message
from workloads.sources import Archive, SourceFailed
from workloads.text import debian
from workloads.text.debian import CachedPairs, DebianCatalogues, cached_pairs, download, unpack_catalogues

ARCHIVE = Archive("translation", {})
POLICY = """tar:
  Installed: 1.34
  Candidate: 1.34
  Version table:
 *** 1.34 500
mutt:
  Installed: (none)
  Candidate: 2.2
  Version table:
gone:
  Installed: 1.0
  Candidate: (none)
  Version table:
"""


class Apt:
    """Packages that can be had, and what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, known: Sequence[str], *, broken: Sequence[str] = ()) -> None:
        self.known, self.broken = list(known), list(broken)
        self.asked: list[list[str]] = []
        monkeypatch.setattr(debian, "known_packages", lambda packages: [p for p in packages if p in self.known])
        monkeypatch.setattr(debian, "run_client", self.run)
        monkeypatch.setattr(debian, "require_programs", lambda *programs: None)
        monkeypatch.setattr(debian.os, "geteuid", lambda: 0)

    def run(self, command: Sequence[str], folder: Path, timeout_s: float = 0.0) -> None:
        verb, *packages = [word for word in command[1:] if "=" not in word and word not in ("-q", "-o")]
        self.asked.append([verb, *packages])
        if verb == "update":
            return
        for package in packages:
            if package not in self.broken:
                (folder / f"{package}_1_all.deb").touch()
        if set(packages) & set(self.broken):
            raise SourceFailed("apt-get download failed (100): E: Failed to fetch it")


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "autoassist.workloads")
    monkeypatch.setenv("AUTOASSIST_CACHE", str(tmp_path / "cache"))


def test_apt_says_which_packages_it_can_download(monkeypatch: pytest.MonkeyPatch) -> None:
    said = subprocess.CompletedProcess([], 0, stdout=POLICY)
    monkeypatch.setattr(debian.subprocess, "run", lambda *words, **more: said)
    assert debian.known_packages(["mutt", "gone", "tar", "unheard-of"]) == ["mutt", "tar"]


def test_a_package_that_this_debian_lacks_costs_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Apt(monkeypatch, ["tar", "git"])
    found = download(["git", "gcc-12-locales", "tar"], tmp_path)
    assert [path.name for path in found] == ["git_1_all.deb", "tar_1_all.deb"]
    assert "package gcc-12-locales is left out: this Debian has no such package" in caplog.text


def test_where_a_version_is_gone_the_lists_are_refreshed_once_and_the_rest_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    apt = Apt(monkeypatch, ["tar", "git"], broken=["git"])
    assert [path.name for path in download(["git", "tar"], tmp_path)] == ["tar_1_all.deb"]
    assert apt.asked == [["download", "git", "tar"], ["update"], ["download", "git"]]
    assert "package git is left out: apt-get download failed (100): E: Failed to fetch it" in caplog.text


def test_where_apt_knows_nothing_the_source_fails_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt = Apt(monkeypatch, [])
    with pytest.raises(SourceFailed, match="apt-get update needs root"):
        download(["git"], tmp_path)
    assert apt.asked == [["update"]]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="wants dpkg-deb")
def test_the_german_catalogues_of_a_package_are_unpacked_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for path in ("usr/share/locale/de/LC_MESSAGES/a.mo", "usr/share/locale/fr/LC_MESSAGES/a.mo", "usr/bin/de.txt"):
        catalogue(root / path, message("Still in use", "Noch in Gebrauch")) if path.endswith("mo") else None
    (root / "DEBIAN").mkdir()
    fields = "Package: made-up\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
    (root / "DEBIAN/control").write_text(f"{fields}Description: made up\n")
    package = tmp_path / "made-up_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", "-Znone", root, package], check=True, capture_output=True, timeout=60)
    assert [path.name for path in unpack_catalogues(package).iterdir()] == ["usr-share-locale-de-LC_MESSAGES-a.mo"]


def test_what_is_parsed_is_kept_and_comes_from_the_cache_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Apt(monkeypatch, ["tar"])
    monkeypatch.setattr(debian, "FEWEST_PAIRS", 1)
    path = catalogue(tmp_path / "made" / "de.mo", message("Still in use", "Noch in Gebrauch"))
    monkeypatch.setattr(debian, "unpack_catalogues", lambda package: path.parent)
    served = DebianCatalogues(["tar"]).fetch(ARCHIVE)
    assert served == {"pairs.tsv": b"Still in use\tNoch in Gebrauch\n"}
    assert CachedPairs().fetch(ARCHIVE) == served


def test_too_few_pairs_are_no_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Apt(monkeypatch, ["tar"])
    monkeypatch.setattr(debian, "unpack_catalogues", lambda package: tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    with pytest.raises(SourceFailed, match="0 pairs in 1 packages, fewer than 5000"):
        DebianCatalogues(["tar"]).fetch(ARCHIVE)


def test_a_damaged_cache_is_deleted_and_said() -> None:
    path = cached_pairs(ARCHIVE)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"# 0123\none two\teins zwei\n")
    with pytest.raises(SourceFailed, match="is damaged"):
        CachedPairs().fetch(ARCHIVE)
    assert not path.exists()
