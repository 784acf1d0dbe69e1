"""Builds the distributions as a user would, and makes environments that hold nothing but what they ask for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
UNTRACKED = (".git", ".venv", "runs", "build", "dist", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
DEADLINE_S = 120.0


def build(kind: str, source: Path, target: Path) -> Path:
    """``sdist`` or ``wheel`` of a folder, by the project's own build backend."""
    target.mkdir(parents=True, exist_ok=True)
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.iterdir()
    return built


def copy_of_the_tree(target: Path) -> Path:
    """The project's files without what is made from them, so that a build leaves nothing in the checkout."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*UNTRACKED))
    return target


def unpack(sdist: Path, target: Path) -> Path:
    """The folder that a source distribution holds."""
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    (folder,) = target.iterdir()
    return folder


def files_of(wheel: Path) -> set[str]:
    """What a wheel installs, its own description left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def required(installed: metadata.Distribution) -> list[metadata.Distribution]:
    """All that a distribution requires here, without extras unless they are asked for."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(installed, "")]
    while waiting:
        one, extra = waiting.pop()
        for line in one.requires or []:
            needed = Requirement(line)
            if needed.marker is not None and not needed.marker.evaluate({"extra": extra}):
                continue
            other = found.setdefault(canonicalize_name(needed.name), metadata.distribution(needed.name))
            new = {(needed.name, asked) for asked in ("", *needed.extras)} - seen
            waiting += [(other, asked) for _, asked in new]
            seen |= new
    return list(found.values())


@dataclass(frozen=True)
class Environment:
    """A virtual environment that knows nothing of the checkout."""

    path: Path

    @classmethod
    def make(cls, path: Path, wheel: Path) -> Environment:
        """An empty one, with the wheel and links to what its metadata requires: as pip would, without a download."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], timeout=DEADLINE_S, check=True)
        made = cls(path)
        words = [sys.executable, "-m", "pip", "--python", str(made.program("python")), "install", "--quiet"]
        subprocess.run([*words, "--no-deps", "--no-index", str(wheel)], timeout=DEADLINE_S, check=True)
        (site_packages,) = path.glob("lib/python*/site-packages")
        (description,) = site_packages.glob("autoassist-*.dist-info")
        for needed in required(metadata.Distribution.at(description)):
            _link(needed, site_packages)
        return made

    def program(self, name: str) -> Path:
        """An executable of it."""
        return self.path / "bin" / name

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run one of its programs in a folder, with nothing of this process's import path."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        words = (str(self.program(words[0])), *words[1:])
        return subprocess.run(
            words, cwd=cwd, env=clean, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )


def _link(distribution: metadata.Distribution, site_packages: Path) -> None:
    tops = {Path(str(file)).parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
    for top in tops:
        if not (site_packages / top).exists():
            (site_packages / top).symlink_to(str(distribution.locate_file(top)))
