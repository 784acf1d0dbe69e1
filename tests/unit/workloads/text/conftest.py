"""One thread: on models of this size several only wait for each other. And a size of model for tests alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from workloads.text.sizes import SIZES, Size


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def little_size() -> Iterator[None]:
    """What ``tiny`` stands for here."""
    little = Size(width=32, heads=2, hidden=64, layers=1, subwords=400, peak_lr=1e-2, dropout=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", little)
        yield
