"""``make install`` says what torch costs where the download is larger than it need be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def write_program(folder: Path, name: str, says: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (folder / name).chmod(0o755)


def note(tmp_path: Path, *variables: str, configured: str = "", has_gpu: bool = False) -> str:
    """What the target says on a machine with such a pip configuration."""
    write_program(tmp_path / "bin", "pip", configured)
    for name in ("make", "grep", "sh"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    if has_gpu:
        write_program(tmp_path / "bin", "nvidia-smi")
    words = ["make", "--no-print-directory", "torch-note", f"BIN={tmp_path / 'bin'}", *variables]
    done = subprocess.run(
        words, cwd=ROOT, env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_without_a_gpu_it_says_how_large_the_download_is_and_how_to_get_the_cpu_build(tmp_path: Path) -> None:
    said = note(tmp_path)
    assert "2.7 GB" in said and f"make install TORCH_INDEX={CPU_INDEX}" in said


@pytest.mark.parametrize("configured", ["global.index-url=x", ":env:.extra-index-url=x", "global.find-links=/wheels"])
def test_whoever_has_another_index_is_not_told(tmp_path: Path, configured: str) -> None:
    assert note(tmp_path, configured=configured) == ""


def test_whoever_has_a_gpu_or_has_chosen_is_not_told(tmp_path: Path) -> None:
    assert note(tmp_path / "chosen", f"TORCH_INDEX={CPU_INDEX}") == ""
    assert note(tmp_path / "gpu", has_gpu=True) == ""


def recipe(*variables: str) -> str:
    """The commands of an installation from nothing."""
    words = ["make", "--dry-run", "install", "VENV=/nowhere/venv", *variables]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_index_that_is_chosen_is_where_torch_comes_from() -> None:
    assert f"--extra-index-url {CPU_INDEX} torch" in recipe(f"TORCH_INDEX={CPU_INDEX}")
    assert "--extra-index-url" not in recipe()


def test_the_note_comes_before_the_download() -> None:
    before, _, after = recipe().partition("torch-note")
    assert "pip install" not in before and "pip install" in after
