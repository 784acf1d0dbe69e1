"""The layout holds: imports point down, the broker is light, nothing dangerous is in the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autoassist
from tests.unit.project.dangers import UNPICKLERS, dangers

ROOT = Path(__file__).resolve().parents[3]
FLOORS = {"protocol": 0, "workloads": 1, "broker": 2, "assistant": 2, "boss": 2, "autoassist": 3}
SOURCES = sorted(path for package in FLOORS for path in (ROOT / package).rglob("*.py"))
ALL_PYTHON = sorted(
    path
    for folder in (*FLOORS, "tests", "benchmarks", "examples")
    if (ROOT / folder).is_dir()
    for path in (ROOT / folder).rglob("*.py")
)


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    others = {other for other in imported(path) if other in FLOORS and other != room}
    assert not {other for other in others if FLOORS[other] >= FLOORS[room]}
    if room == "broker":
        assert not imported(path) & {"torch", "workloads"}


def test_the_broker_starts_without_torch() -> None:
    code = "import sys, broker.loop, autoassist.roles; sys.exit('torch' in sys.modules or 'workloads' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0


ASSISTANT = """
import sys
from autoassist.cli import main
assert main(["assistant", "digits", "--broker", "tcp://127.0.0.1:9", "--connect-timeout-s", "0.01"]) == 1
sys.exit("torch" in sys.modules)
"""


def test_an_assistant_of_a_built_in_image_workload_works_without_torch() -> None:
    """It is tiny: features and labels are there by the time it looks for its broker."""
    ended = subprocess.run(
        [sys.executable, "-c", ASSISTANT], cwd=ROOT, timeout=60, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0 and "no broker answers" in ended.stderr, ended.stderr


@pytest.mark.parametrize("path", ALL_PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unpickles_or_waits_blindly(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not dangers(text)
    if path == Path(__file__).resolve():
        return
    pickles = r"\bimport pickle\b|recv_pyobj|send_pyobj|object_list\(|gather_object\("
    words = rf"{pickles}|weights_only=False|allow_pickle=True|except:\s*$"
    assert not re.search(words, text, re.MULTILINE)


DANGEROUS = [
    *(f"import {module}" for module in sorted(UNPICKLERS)),
    *("from pickle import loads", "from pickle import *", "import os, pickle as p", "import dill.session"),
    *("def f():\n    from marshal import loads", "__import__('pickle')", "importlib.import_module('cloudpickle.x')"),
    *("torch.load(path)", "torch.load(path, weights_only=safe)", "torch.load(path, **options)"),
    *("import torch as t\nt.load(path)", "from torch import load", "from torch import nn, load as read"),
    *("read = torch.load", "partial(torch.load, weights_only=True)", "torch.serialization.load(path)"),
    *("torch.load(a, b, None)", "torch.load(torch.load(p), weights_only=True)"),
    *("np.load(path, allow_pickle=flag)", "np.load(path, allow_pickle=1)"),
]


@pytest.mark.parametrize("source", DANGEROUS)
def test_the_check_for_unpicklers_finds_each_way_to_write_one(source: str) -> None:
    assert dangers(source)


HARMLESS = [
    *("torch.load(path, map_location='cpu', weights_only=True)", "import torch as t\nt.load(p, weights_only=True)"),
    *("np.load(path)", "np.load(path, allow_pickle=False)", "json.load(file)", "'import pickle'  # torch.load(path)"),
    *("from .pickle import jar", "from torch import nn", "import pickles", "importlib.import_module(name)"),
]


@pytest.mark.parametrize("source", HARMLESS)
def test_the_check_for_unpicklers_finds_nothing_else(source: str) -> None:
    assert not dangers(source)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 50, node.name


def test_required_folders_and_files_are_there() -> None:
    wanted = ["boss", "assistant", "broker", "protocol", "tests", "docker-compose.yml", "pyproject.toml", "LICENSE"]
    wanted += ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
    wanted += ["docs/ARCHITECTURE.md", "docs/PROTOCOL.md"]
    assert not [name for name in wanted if not (ROOT / name).exists()]


@pytest.mark.parametrize("package", autoassist.PACKAGES)
def test_a_users_own_file_that_hides_ours_is_named(tmp_path: Path, package: str) -> None:
    (tmp_path / f"{package}.py").write_text("")
    words = [sys.executable, "-c", "import autoassist"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"{tmp_path / package}.py hides AutoAssist's package {package!r}" in done.stderr
