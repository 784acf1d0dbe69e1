"""A broker for the feeds of a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.local_broker import local_broker


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a broker whose run lies in ``tmp_path``."""
    with local_broker(tmp_path) as found:
        yield found
