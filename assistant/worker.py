"""The Assistant's one poll loop: the socket and the clock on the outside, the core within."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from assistant.core import AssistantCore
from assistant.policies import make_policy
from protocol.client import ConnectSettings, RoleClient, new_incarnation
from protocol.messages import AnyMessage, Goodbye, Hello, Stop, Welcome
from protocol.session import SessionTimes
from protocol.settings import require
from protocol.signals import StopSignal

log = logging.getLogger("autoassist.assistant")

IDLE_S = 1.0
DRAIN_S = 5.0


@dataclass(frozen=True, kw_only=True)
class AssistantSettings:
    """Settings of one Assistant; all that concerns the run comes from the broker."""

    name: str = "assistant-0"
    """Unique in the run."""

    slots: int = 2
    """Windows that it takes at once."""

    def __post_init__(self) -> None:
        require(bool(self.name) and len(self.name) <= 100, "name", self.name, "must have 1 to 100 characters")
        require(1 <= self.slots <= 64, "slots", self.slots, "must lie in 1 … 64")


class Assistant:
    """One Assistant process.

    ``features`` has shape (n, d) float32 or is None, ``labels`` (n,) int64 or None.
    """

    def __init__(
        self,
        settings: AssistantSettings,
        connect: ConnectSettings,
        *,
        dataset_id: str,
        n: int,
        features: NDArray[np.float32] | None = None,
        labels: NDArray[np.int64] | None = None,
        times: SessionTimes | None = None,
    ) -> None:
        self.n = n
        self.features = features
        self.labels = labels
        self.core: AssistantCore | None = None
        hello = Hello(
            role="assistant",
            name=settings.name,
            incarnation=new_incarnation(),
            dataset_id=dataset_id,
            n=n,
            slots=settings.slots,
            package_version=metadata.version("autoassist"),
        )
        self.client = RoleClient(hello, connect, times=times)

    def run(self, stop: StopSignal) -> str:
        """Serve until the broker says Stop or a signal comes; returns why it ended.

        Raises PeerRefused and BrokerUnreachable.
        """
        ended = ""
        try:
            while not ended:
                busy = self.client.is_open and self.core is not None and self.core.has_work()
                for message in self.client.poll(0.0 if busy else IDLE_S, stop.fileno()):
                    ended = ended or self._take(message)
                if stop.requested:
                    ended = ended or "stopped"
                if self.core is not None and self.client.is_open and not ended:
                    self._say(self.core.work())
            self._leave(ended)
            return ended
        finally:
            self.client.close()

    def _take(self, message: AnyMessage) -> str:
        match message:
            case Welcome():
                self._join(message)
            case Stop(reason=reason):
                return reason
            case _ if self.core is not None:
                self._say(self.core.receive(message))
                self.client.session.update_hello(position=self.core.position)
        return ""

    def _join(self, welcome: Welcome) -> None:
        if self.core is None:
            settings = welcome.settings
            log.info("joined the run: policy %s, seed %d", settings.policy, settings.seed)
            self.core = AssistantCore(settings, make_policy(settings, self.n, self.features, self.labels))
        self._say(self.core.grant())

    def _say(self, messages: list[AnyMessage]) -> None:
        for message in messages:
            self.client.send(message)

    def _leave(self, reason: str) -> None:
        figures = self.core.figures if self.core is not None else {}
        if self.client.is_open:
            self.client.send(Goodbye(reason=reason, figures=figures))  # type: ignore[arg-type]
            if not self.client.drain(DRAIN_S):
                log.warning("the broker did not acknowledge the Goodbye")
