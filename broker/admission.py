"""Who may join the run, and what a role that may not is told."""

from __future__ import annotations

import re

from broker.effects import HelloReceived, RefusalCode, Refuse
from broker.recut import agrees, resized
from broker.rows import PeerRow, RunRow
from broker.state import State
from protocol.errors import SettingError
from protocol.messages import NO_RESTORE, OLDEST_SPOKEN_VERSION, PROTOCOL_VERSION, Hello

NUMBERED = re.compile(r"-(\d{1,4})$")
"""The number in the name of an Assistant: ``assistant-3``."""
MAX_N = 1 << 62
MAX_NAME = 100
MAX_RANKS = 1 << 20
MAX_PEERS = 4096
"""Most names that one run remembers."""


def shown(name: str) -> str:
    """A name that nobody has looked at yet, for logs: neither long nor able to forge a line."""
    return repr(name[:MAX_NAME])


def refusal_of(state: State, event: HelloReceived, run_id: str) -> Refuse | None:
    """Why a Hello is refused, with the remedy; None where the role may join. ``run_id`` names this broker's run."""
    hello, run = event.hello, state.run
    if not OLDEST_SPOKEN_VERSION <= hello.protocol <= PROTOCOL_VERSION:
        spoken = f"{OLDEST_SPOKEN_VERSION} to {PROTOCOL_VERSION}"
        return Refuse(
            hello.name,
            "version",
            f"protocol version {hello.protocol} of {shown(hello.name)}; this broker speaks {spoken}",
            "install the same autoassist version on every host",
        )
    if problem := _malformed(hello):
        name = shown(hello.name)
        return Refuse(hello.name, "malformed", f"{hello.role} {name}: {problem}", "give values within these ranges")
    if hello.run_id not in ("", run_id):
        reason = f"run {run_id:.8} is at this address, and {hello.name} belongs to run {hello.run_id:.8}"
        return Refuse(hello.name, "elsewhere", reason, "start the broker again with the --run-dir of that run")
    if run is None:
        if hello.role == "assistant":
            return Refuse(hello.name, "wait", "no Boss has started the run yet", "start a Boss")
        return _unfit_run(hello)
    if hello.incarnation in run.fenced:
        reason = f"the run was taken back to a checkpoint, and this {hello.name} belongs to what came after it"
        return Refuse(hello.name, "fenced", reason, "")
    takes_any = hello.role == "assistant" and (hello.dataset_id, hello.n) == ("", 0)
    if not takes_any and (hello.dataset_id, hello.n) != (run.dataset_id, run.n):
        return Refuse(
            hello.name,
            "dataset",
            f"{hello.name} has data set {hello.dataset_id} (n={hello.n}), the run has {run.dataset_id} (n={run.n})",
            "give every role the same data",
        )
    if hello.role == "boss" and hello.lengths != run.lengths_id:
        reason = f"{hello.name} has other lengths of the instances than the run"
        return Refuse(hello.name, "dataset", reason, "give every rank the same lengths")
    may_resize = hello.restore_step != NO_RESTORE
    if hello.settings is not None and not agrees(hello.settings, run.settings, other_world_size=may_resize):
        return Refuse(
            hello.name,
            "settings",
            f"settings differ from the run's: {run.settings.difference(hello.settings)}",
            "use the run's settings, or another --run-dir for a new run",
        )
    if may_resize and hello.settings is not None and (problem := _cannot_resize(hello, run)):
        return Refuse(hello.name, "settings", problem, "resume with the number of ranks that the run began with")
    if state.awaits_boss and hello.role == "assistant":
        return Refuse(hello.name, "wait", "no Boss has resumed the run yet", "start a Boss with --resume")
    return _rank_beyond(hello, run.settings.world_size) or _duplicate(state, event) or _begins_anew(state, event)


def _malformed(hello: Hello) -> str:
    """What is out of range in a Hello; empty where nothing is."""
    ranges = [
        ("length of name", len(hello.name), 1, MAX_NAME),
        ("length of incarnation", len(hello.incarnation), 1, MAX_NAME),
        ("n", hello.n, 0 if hello.role == "assistant" else 1, MAX_N),
        ("rank", hello.rank, 0, MAX_RANKS),
        ("slots", hello.slots, 0, MAX_N),
        ("position", hello.position, 0, MAX_N),
    ]
    wrong = [
        f"{name}={value} is not in {low} … {high}" for name, value, low, high in ranges if not low <= value <= high
    ]
    if not hello.name.isprintable():
        wrong.append("a name is shown in logs and on terminals, and must be of printable characters")
    if hello.restore_step != NO_RESTORE and (hello.role, hello.rank) != ("boss", 0):
        wrong.append(f"restore_step={hello.restore_step}: only the Boss of rank 0 may take a run back")
    return "; ".join(wrong)


def _cannot_resize(hello: Hello, run: RunRow) -> str:
    """Why a run cannot go on with another number of ranks; empty where it can."""
    assert hello.settings is not None
    try:
        settings = resized(run.settings, hello.settings.world_size)
    except SettingError as error:
        return f"the run cannot go on with world_size={hello.settings.world_size}: {error}"
    if settings.world_size > run.n or (settings.max_tokens is None and settings.step_instances > run.n):
        return f"world_size={settings.world_size} times batch_size={settings.batch_size} exceeds {run.n} instances"
    return ""


def _rank_beyond(hello: Hello, world_size: int) -> Refuse | None:
    if hello.role != "boss" or hello.rank < world_size:
        return None
    reason = f"rank={hello.rank} of {hello.name} is beyond world_size={world_size}"
    return Refuse(hello.name, "settings", reason, "start fewer ranks, or a new run with a larger --world-size")


def _duplicate(state: State, event: HelloReceived) -> Refuse | None:
    hello = event.hello
    known = state.peers.get(hello.name)
    if known is not None and known.role != hello.role:
        return Refuse(hello.name, "duplicate", f"{hello.name} is a {known.role} of this run", "give another --name")
    if known is None and len(state.peers) >= MAX_PEERS:
        return Refuse(hello.name, "duplicate", f"the run knows {MAX_PEERS} names already", "use a name again")
    if known is not None and known.incarnation != hello.incarnation and event.alive_elsewhere:
        reason = f"another process is already {hello.name}, or was until a moment ago"
        if hello.role == "assistant":
            return Refuse(hello.name, "taken", reason, "give this one another --name")
        # The ranks of a group that was started again come before the broker has missed those that were killed.
        code: RefusalCode = "taken" if hello.restore_step != NO_RESTORE or hello.rank else "duplicate"
        return Refuse(hello.name, code, reason, "stop it first")
    rival = state.boss(hello.rank) if hello.role == "boss" else None
    if rival is not None and rival.row.name != hello.name:
        reason = f"{rival.row.name} is already the Boss of rank {hello.rank}"
        return Refuse(hello.name, "duplicate", reason, "stop it first, or give this one a rank of its own")
    return None


def _begins_anew(state: State, event: HelloReceived) -> Refuse | None:
    """A new Boss with fresh weights must not go on with what another one has trained."""
    hello, run = event.hello, state.the_run
    known = state.peers.get(hello.name)
    is_new = known is None or known.incarnation != hello.incarnation
    if (hello.role, hello.rank) != ("boss", 0) or not is_new or hello.restore_step != NO_RESTORE or not run.log_step:
        return None
    return Refuse(
        hello.name,
        "restore",
        f"the run has trained {run.log_step} steps already, and this {hello.name} would go on with fresh weights",
        "resume it (--resume; Feed.connect(state=…) in a script), or start a new run with another --run-dir",
    )


def _unfit_run(hello: Hello) -> Refuse | None:
    settings = hello.settings
    if settings is None:
        return Refuse(hello.name, "malformed", "the first Boss must bring settings", "update the Boss")
    if (settings.max_tokens is not None) != bool(hello.lengths):
        reason = f"max_tokens={settings.max_tokens} and lengths {hello.lengths!r}: one is nothing without the other"
        return Refuse(hello.name, "settings", reason, "give --max-tokens and a workload with lengths, or neither")
    given = f"batch_size={settings.batch_size} times world_size={settings.world_size}"
    if settings.world_size > hello.n or (settings.max_tokens is None and settings.step_instances > hello.n):
        return Refuse(
            hello.name, "settings", f"{given} exceeds the data set's {hello.n} instances", "lower --batch-size"
        )
    return _rank_beyond(hello, settings.world_size)


def give_number(state: State, row: PeerRow) -> None:
    """Give an Assistant its number: its name's where it has one, so that the order of joining plays no part."""
    taken = {m.row.index for m in state.assistants() if m.row is not row}
    wanted = int(found[1]) if (found := NUMBERED.search(row.name)) else row.index
    free = min(set(range(len(taken) + 1)) - taken)
    index = wanted if wanted < state.settings.assistants and wanted not in taken else free
    if index != row.index:
        row.index = index
        state.touch("peer", row.name, row)
