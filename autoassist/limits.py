"""When a figure of a run is close to what it must not reach: the colours of the views, by the alerts' own limits."""

from __future__ import annotations

from protocol.statistics import PeerStatistics, RunStatistics

GOOD, NEAR, BAD = "", "yellow", "bold red"
NEAR_BOUND = 0.9
"""Share of the staleness bound, as in the alert StalenessNearBound."""
MUCH_WAIT = 0.02
"""Share of the Boss's time, as in the alert BossWaited."""
FAR_BEHIND = 1000
"""Loss records that an Assistant has not been sent, as in the alert AssistantBehind."""
SILENT_S = 3.0
"""Three heartbeats: who is silent for longer is held to be gone."""
FULL_CORE = 95.0
CLEAR = 3.0
"""Standard errors by which a lift must lie above 0 to be clear, as for the gate."""


def staleness(run: RunStatistics) -> str:
    """Of the greatest, against the bound."""
    if run.staleness_max is None or not run.staleness_bound:
        return GOOD
    share = run.staleness_max / run.staleness_bound
    return BAD if share >= 1.0 else NEAR if share > NEAR_BOUND else GOOD


def ready(run: RunStatistics) -> str:
    """Batches that lie ready at the Boss, while there is one that may run out of them."""
    if run.ended or not any(peer.role == "boss" for peer in run.peers):
        return GOOD
    return BAD if run.ready_batches <= 0 else NEAR if run.ready_batches == 1 else GOOD


def wait(run: RunStatistics) -> str:
    """The Boss's exposed wait."""
    share = run.exposed_wait_s / run.wall_s if run.wall_s else 0.0
    return BAD if share > 5 * MUCH_WAIT else NEAR if share > MUCH_WAIT else GOOD


def count(value: int) -> str:
    """Of what should never happen."""
    return NEAR if value else GOOD


def silence(peer: PeerStatistics) -> str:
    """How long ago a role has said something."""
    return BAD if peer.silent_s > SILENT_S else NEAR if peer.silent_s > SILENT_S / 2 else GOOD


def backlog(peer: PeerStatistics) -> str:
    """How far an Assistant lags behind."""
    return BAD if peer.backlog_records > FAR_BEHIND else NEAR if peer.backlog_records > FAR_BEHIND // 2 else GOOD


def lift(peer: PeerStatistics) -> str:
    """Whether an Assistant's lift is clearly above 0; nothing is left out by one whose is not."""
    return GOOD if peer.lift > CLEAR * peer.lift_error else NEAR


def cpu(percent: float, role: str) -> str:
    """A broker or an Assistant that needs a whole core is about to be too slow; a Boss is meant to be busy."""
    return NEAR if role != "boss" and percent >= FULL_CORE else GOOD
