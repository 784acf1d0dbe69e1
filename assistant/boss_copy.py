"""The Boss's own network with the weights of its newest snapshot: what an Assistant looks ahead with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.arrays import F32, I64
from protocol.errors import DataError
from protocol.trouble import Trouble

if TYPE_CHECKING:
    from torch import nn

    from assistant.forward import CheapForward
    from workloads import Workload

log = logging.getLogger("autoassist.assistant")


class BossCopy:
    """The Boss's network with the weights of its newest snapshot."""

    def __init__(self, workload: Workload, path: Path) -> None:
        self.workload = workload
        self.path = path
        self.step = -1
        """Of the snapshot; -1 before the first."""
        self._network: nn.Module | None = None
        self._forward: CheapForward | None = None
        self._seen: tuple[int, int] | None = None
        self._unread = Trouble(log)

    def refresh(self) -> bool:
        """Take the newest snapshot, where there is another; whether there is any."""
        try:
            stat = self.path.stat()
        except OSError:
            return self._network is not None
        if self._seen != (seen := (stat.st_ino, stat.st_mtime_ns)):
            self._seen = seen
            self._take()
        return self._network is not None

    def _take(self) -> None:
        import torch  # only now: a run without a snapshot does without its seconds and its memory

        from assistant.forward import CheapForward
        from workloads.snapshot_files import read_snapshot

        torch.set_num_threads(1)
        network = self._network or self.workload.boss()
        try:
            found = read_snapshot(self.path)
            if found is None:
                return
            self.step, weights = found
            _load(network, weights)
        except (DataError, RuntimeError) as error:
            self._network = None
            self._unread.met(*self._of_no_use(error))
            return
        self._unread.is_over()
        self._network = network.eval()
        self._forward = self._forward or CheapForward(self.workload.losses)
        self._forward.take(self._network)

    def _of_no_use(self, error: DataError | RuntimeError) -> tuple[str, str]:
        """Why a snapshot cannot be used, and what comes of it."""
        if isinstance(error, DataError):
            return str(error), "no looking ahead until one fits"
        told = " ".join(line.strip() for line in str(error).splitlines()[:2])  # torch's first line says nothing yet
        return f"{self.path}: {told}", "no looking ahead until one fits; give the Boss's own --model"

    def losses(self, ids: I64) -> F32:
        """Of these instances, shape ``(k,)``; call it once ``refresh`` has said that there is a snapshot."""
        assert self._forward is not None
        losses: F32 = self._forward.losses(*self.workload.batch(ids.tolist())).numpy()
        return losses


def _load(network: Any, weights: dict[str, Any]) -> None:
    """Into a ``torch.nn.Module``. Snapshots hold tensors alone, so its extra state may be missing, and nothing else.

    Raises RuntimeError.
    """
    missing, unexpected = network.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith("_extra_state")]
    if missing or unexpected:
        raise RuntimeError(
            f"missing {', '.join(missing) or 'nothing'}; not known: {', '.join(unexpected) or 'nothing'}"
        )
