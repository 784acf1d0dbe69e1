"""AutoAssist: trains heavy networks on the instances worth their time.

The public surface is what this module names; torch is imported with the first name that needs it.
"""

from __future__ import annotations

from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoassist.local_feed import Feed as Feed
    from boss.snapshots import Snapshots as Snapshots
    from boss.snapshots import SnapshotSettings as SnapshotSettings
    from protocol.channels import MemoryHub as MemoryHub
    from protocol.errors import AutoAssistError as AutoAssistError
    from protocol.settings import RunSettings as RunSettings
    from workloads import Fingerprint as Fingerprint
    from workloads import Metric as Metric
    from workloads import Workload as Workload
    from workloads import load_workload as load_workload

_EXPORTS = {
    "AutoAssistError": "protocol.errors",
    "Feed": "autoassist.local_feed",
    "Fingerprint": "workloads",
    "MemoryHub": "protocol.channels",
    "Metric": "workloads",
    "RunSettings": "protocol.settings",
    "SnapshotSettings": "boss.snapshots",
    "Snapshots": "boss.snapshots",
    "Workload": "workloads",
    "load_workload": "workloads",
}
__all__ = [
    "AutoAssistError",
    "Feed",
    "Fingerprint",
    "MemoryHub",
    "Metric",
    "RunSettings",
    "SnapshotSettings",
    "Snapshots",
    "Workload",
    "load_workload",
]

PACKAGES = ("protocol", "workloads", "broker", "assistant", "boss")


def _refuse_shadows() -> None:
    """A user's own ``protocol.py`` beside the script would be imported in place of ours: say which file it is."""
    home = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        spec = util.find_spec(package)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin is not None and origin.parent.parent != home:
            raise ImportError(f"{origin} hides AutoAssist's package {package!r}; rename that file or folder")


_refuse_shadows()


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'autoassist' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
