"""A cache folder of its own for each test, and a made-up archive of four small IDX files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from workloads.cache import sha256_hex
from workloads.idx import encode_idx
from workloads.sources import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, Archive, Files


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache folder, empty and not yet created."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("AUTOASSIST_CACHE", str(folder))
    yield folder


@pytest.fixture
def files() -> Files:
    """Contents of a set of 12 training and 4 test images of 5x6 pixels in 3 classes."""
    rng = np.random.default_rng(7)

    def images(count: int) -> bytes:
        return encode_idx(rng.integers(0, 256, size=(count, 5, 6), dtype=np.uint8))

    def labels(count: int) -> bytes:
        return encode_idx((np.arange(count) % 3).astype(np.uint8))

    return {TRAIN_IMAGES: images(12), TRAIN_LABELS: labels(12), TEST_IMAGES: images(4), TEST_LABELS: labels(4)}


@pytest.fixture
def archive(files: Files) -> Archive:
    """The archive whose hashes are those of `files`."""
    return Archive("made-up", {name: sha256_hex(content) for name, content in files.items()})
