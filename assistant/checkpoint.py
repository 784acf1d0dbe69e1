"""An Assistant's checkpoint: what it has learned, and how far in the loss log that reaches. Plain arrays, no code.

Without one, or with one of another run, an Assistant rebuilds the same state from the loss log: what it knows is a
function of the log alone. The checkpoint only saves it the replay.
"""

from __future__ import annotations

import logging
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assistant.estimates import State

log = logging.getLogger("autoassist.assistant")


@dataclass(frozen=True, slots=True)
class AssistantCheckpoint:
    """State after the loss log's records below ``position``."""

    history: str
    """Names the loss log; see ``protocol.messages.history_id``."""
    position: int
    learned_through: int
    policy: State
    mark: int = 0
    """By which its tables' journal knows it; 0 where all of them are in ``policy``."""

    def write(self, path: Path) -> None:
        """Write atomically; raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")  # always the same: what a killed Assistant has left is written over
        arrays: dict[str, Any] = {f"policy.{name}": values for name, values in self.policy.items()}
        arrays["counts"] = np.array([self.position, self.learned_through, self.mark])
        arrays["history"] = np.array(self.history)
        try:
            with part.open("wb") as file:
                np.savez(file, **arrays)
            part.replace(path)
        except OSError:
            with suppress(OSError):
                part.unlink()  # it may hold what the broker on the same disk needs
            raise


def read_checkpoint(path: Path) -> AssistantCheckpoint | None:
    """Read a checkpoint; None, with a warning, where there is none that can be read."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            position, learned_through, mark = (int(v) for v in found["counts"])
            policy = {k.removeprefix("policy."): found[k] for k in found.files if k.startswith("policy.")}
            return AssistantCheckpoint(str(found["history"]), position, learned_through, policy, mark)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s); rebuilding from the loss log instead", path, error)
        return None
