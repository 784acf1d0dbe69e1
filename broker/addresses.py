"""Where a broker listens and publishes, as a file of the run directory, for whoever watches the run."""

from __future__ import annotations

from pathlib import Path

import msgspec

from broker.store_errors import unwritable

ADDRESSES_FILE = "addresses.json"


def write_addresses(run_dir: Path, *, address: str, statistics: str) -> None:
    """Raises StoreError where it cannot be written."""
    try:
        (run_dir / ADDRESSES_FILE).write_bytes(msgspec.json.encode({"address": address, "statistics": statistics}))
    except OSError as error:
        raise unwritable(run_dir, error) from error
