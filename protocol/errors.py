"""Every error that AutoAssist raises on purpose.

    AutoAssistError            exit code 1
    ├── UserError              exit code 2: the person at the terminal can mend it
    │   ├── SettingError           a setting is out of range or contradicts another
    │   ├── WorkloadError          a workload is unknown, does not import, or lacks a method
    │   ├── DataError              a data file is missing, truncated, or has the wrong hash
    │   ├── PortInUse              another process listens on the port
    │   ├── FeedMisuse             the training script breaks the feed's contract
    │   └── PeerRefused            the broker refused this role (other data set, other settings, other version)
    │       └── PeerFenced             the run was taken back to a checkpoint; this process belongs to the time after it
    ├── ProtocolError          bytes from the wire that are not a message of ours
    ├── BrokerUnreachable      nobody answered within --connect-timeout-s
    ├── StoreError             the run store, the data cache or the weights cannot be read or written (a full disk)
    ├── TrainingDiverged       no loss is finite any more
    ├── RankLost               another rank of this Boss is gone: the ranks are started again together, or not at all
    └── RoleFailed             a role of a local run ended for good

A message names the thing, the value, and the remedy.
"""

from __future__ import annotations


class AutoAssistError(Exception):
    """Root of the tree; ``exit_code`` is what the command line returns."""

    exit_code = 1


class UserError(AutoAssistError):
    """Something that the person at the terminal can mend."""

    exit_code = 2


class SettingError(UserError):
    """A setting is out of range or contradicts another one."""


class WorkloadError(UserError):
    """A workload is unknown, does not import, or lacks a method."""


class DataError(UserError):
    """A data file is missing, truncated, or has the wrong hash."""


class PortInUse(UserError):
    """Another process listens on the port."""


class FeedMisuse(UserError):
    """The training script breaks the feed's contract."""


class PeerRefused(UserError):
    """The broker refused this role; the message carries the broker's reason and remedy."""

    code = ""
    """Of the broker's Reject; "" where there was no such answer."""


class PeerFenced(PeerRefused):
    """The run was taken back to a checkpoint, and this process belongs to what came after it."""


class ProtocolError(AutoAssistError):
    """Bytes from the wire that are not a message of ours.

    ``cause`` is a short word from a fixed set, so that refusals can be counted by cause.
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail


class BrokerUnreachable(AutoAssistError):
    """Nobody answered within ``connect_timeout_s``."""


class RankLost(AutoAssistError):
    """Another rank of this Boss is gone or silent; what this one says of it is not the cause."""

    exit_code = 75  # EX_TEMPFAIL


class StoreError(AutoAssistError):
    """The run store, the data cache or the Boss's weights cannot be read or written."""


class TrainingDiverged(AutoAssistError):
    """No loss is finite any more: going on would only waste time."""


class RoleFailed(AutoAssistError):
    """A role of a local run ended for good; the message carries its last words."""
