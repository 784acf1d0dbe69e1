"""Who may join the run, and what a role that may not is told."""

from __future__ import annotations

from broker.effects import HelloReceived, Refuse
from broker.state import State
from protocol.messages import OLDEST_SPOKEN_VERSION, PROTOCOL_VERSION, Hello


def refusal_of(state: State, event: HelloReceived) -> Refuse | None:
    """Why a Hello is refused, with the remedy; None where the role may join."""
    hello, run = event.hello, state.run
    if not OLDEST_SPOKEN_VERSION <= hello.protocol <= PROTOCOL_VERSION:
        spoken = f"{OLDEST_SPOKEN_VERSION} to {PROTOCOL_VERSION}"
        return Refuse(
            hello.name,
            "version",
            f"protocol version {hello.protocol} of {hello.name}; this broker speaks {spoken}",
            "install the same autoassist version on every host",
        )
    if run is None:
        if hello.role == "assistant":
            return Refuse(hello.name, "wait", "no Boss has started the run yet", "start a Boss")
        return _unfit_run(hello)
    if (hello.dataset_id, hello.n) != (run.dataset_id, run.n):
        return Refuse(
            hello.name,
            "dataset",
            f"{hello.name} has data set {hello.dataset_id} (n={hello.n}), the run has {run.dataset_id} (n={run.n})",
            "give every role the same data",
        )
    if hello.settings is not None and hello.settings != run.settings:
        return Refuse(
            hello.name,
            "settings",
            f"settings differ from the run's: {run.settings.difference(hello.settings)}",
            "use the run's settings, or another --run-dir for a new run",
        )
    return _duplicate(state, event)


def _duplicate(state: State, event: HelloReceived) -> Refuse | None:
    hello = event.hello
    known = state.peers.get(hello.name)
    if known is None or known.incarnation == hello.incarnation or not event.alive_elsewhere:
        return None
    remedy = "stop it first" if hello.role == "boss" else "give this one another --name"
    return Refuse(hello.name, "duplicate", f"another process is already {hello.name}", remedy)


def _unfit_run(hello: Hello) -> Refuse | None:
    settings = hello.settings
    if settings is None or hello.n < 1:
        return Refuse(hello.name, "malformed", "a Boss must bring settings and n >= 1", "update the Boss")
    if settings.step_instances > hello.n:
        given = f"batch_size={settings.batch_size} times world_size={settings.world_size}"
        return Refuse(
            hello.name, "settings", f"{given} exceeds the data set's {hello.n} instances", "lower --batch-size"
        )
    return None
