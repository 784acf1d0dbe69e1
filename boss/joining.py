"""How a Boss joins a run: what its script has given, checked before anything is connected; one rank after another. And
how it leaves one: as what a script that ends with an error ends the run."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from importlib import metadata
from numbers import Real
from typing import Any

from numpy.typing import NDArray

from boss.clocks import Clocks
from boss.ranks import RankGroup
from protocol.client import new_incarnation
from protocol.errors import AutoAssistError, FeedMisuse, RoleFailed, SettingError
from protocol.messages import NO_RESTORE, Hello
from protocol.settings import RunSettings, require
from protocol.token_batches import I32, require_lengths, typical_batch_size

STATE_FIELDS = ("step", "epochs_done", "off_plan_steps", "progress", "instances")
"""Numbers that each state has; those that came with a later version are not among them."""


def require_state(state: Any, *, may_be_none: bool = True) -> None:
    """Raise SettingError unless it is what a feed's ``state_dict`` returned, ``{}``, or None where none is given.

    To be called before anything is said to the broker: another dict, taken for the run's beginning, would take back all
    that was trained.
    """
    remedy = "give what feed.state_dict() returned, such as saved['feed'], or {} for the run's beginning"
    if not isinstance(state, dict) and not (state is None and may_be_none):
        raise SettingError(f"state={reprlib.repr(state)}: is not a feed's state_dict; {remedy}")
    if not state:
        return
    clocks = state.get("clocks")
    clocks = clocks if isinstance(clocks, dict) else {}
    missing = [name for name in STATE_FIELDS if not isinstance(state.get(name), Real)]
    missing += [f"clocks.{name}" for name in Clocks().state_dict() if not isinstance(clocks.get(name), Real)]
    if missing:
        given = reprlib.repr(list(state))
        words = f"is not a feed's state_dict (missing, or no numbers: {', '.join(missing)})"
        raise SettingError(f"state: a dict of {given} {words}; {remedy}")


def chosen_settings(settings: Any, given: dict[str, Any], ranks: int, **own: Any) -> RunSettings:
    """Run settings as the script has given them: whole, or as keyword arguments ``given``, which ``own`` completes.

    Raises SettingError for both, and for what is no RunSettings.
    """
    if settings is None:
        return settings_from({**given, **own}, ranks)
    if not isinstance(settings, RunSettings):
        remedy = "must be RunSettings(…); or give its fields as keyword arguments, such as batch_size=64"
        raise SettingError(f"settings={reprlib.repr(settings)}: {remedy}")
    if given:
        words = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in given.items())
        raise SettingError(f"{words}: given beside settings=…, which has them all; put them into that RunSettings")
    return settings


def settings_from(given: dict[str, Any], ranks: int) -> RunSettings:
    """Run settings from keyword arguments, for as many ranks as there are; raises SettingError."""
    try:
        return RunSettings(**{"world_size": ranks, **given})
    except TypeError as error:
        raise SettingError(f"Feed.connect: {error}; the settings are the fields of RunSettings") from None


def size_of(dataset: Sized | None) -> int:
    """Instances of the data set; raises SettingError where none is given, or they cannot be told by number."""
    if dataset is None:
        raise SettingError("Feed.connect: neither dataset nor n is given; pass dataset=train_set")
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        kind, remedy = type(dataset).__name__, "has no length; give a map-style data set, with __len__ and __getitem__"
        raise SettingError(f"dataset={kind}: {remedy}") from None


def fitted(settings: RunSettings, lengths: NDArray[Any] | None, n: int) -> tuple[RunSettings, I32 | None]:
    """Settings and lengths as the run has them: by tokens both are needed, and what a batch has of instances follows.

    Raises SettingError where one is without the other, or an instance is longer than a batch may be.
    """
    tokens = settings.max_tokens
    if tokens is None:
        given = None if lengths is None else f"of {len(lengths)} instances"
        require(
            lengths is None, "lengths", given, "are for batches by tokens; give max_tokens=… too, or leave them out"
        )
        return settings, None
    if lengths is None:
        remedy = "needs the length of each instance: a workload with lengths(), or Feed.connect(…, lengths=array)"
        raise SettingError(f"max_tokens={tokens}: {remedy}; or leave it out")
    checked = require_lengths(lengths, n, tokens)
    return dataclasses.replace(settings, batch_size=typical_batch_size(checked, settings)), checked


def boss_hello(
    settings: RunSettings,
    state: dict[str, Any] | None,
    *,
    rank: int,
    dataset_id: str,
    n: int,
    workload: str,
    lengths: str = "",
) -> Hello:
    """What a rank says first. Rank 0 alone takes the run back to where ``state`` was taken."""
    takes_back = state is not None and rank == 0
    return Hello(
        role="boss",
        name=f"boss-{rank}",
        incarnation=new_incarnation(),
        dataset_id=dataset_id,
        n=n,
        settings=settings.resolved(),
        rank=rank,
        package_version=metadata.version("autoassist"),
        restore_step=NO_RESTORE if not takes_back else int(state["step"]) if state else -1,
        run_id=(state or {}).get("run_id", ""),
        workload=workload,
        lengths=lengths,
    )


def again(hello: Hello, state: dict[str, Any]) -> Hello:
    """What a rank says to go on from ``state``, as another incarnation."""
    return boss_hello(
        hello.settings or RunSettings(),
        state,
        rank=hello.rank,
        dataset_id=hello.dataset_id,
        n=hello.n,
        workload=hello.workload,
        lengths=hello.lengths,
    )


def require_same_state(group: RankGroup | None, state: dict[str, Any] | None) -> None:
    """Raise SettingError where the ranks would go on from different checkpoints."""
    steps = group.gather((state or {}).get("step") if state is not None else "none") if group is not None else [0]
    if any(step != steps[0] for step in steps):
        words = ", ".join(f"rank {rank}: {step}" for rank, step in enumerate(steps))
        raise SettingError(
            f"state: the ranks bring checkpoints of different steps ({words}); give all of them the same checkpoint, "
            "from a directory that every host sees"
        )


@contextmanager
def in_turn(group: RankGroup | None) -> Iterator[None]:
    """Rank 0 joins before the others do: it may take the run back, which shuts out whoever is there already.

    Raises RoleFailed on every rank where one could not join.
    """
    if group is None:
        yield
        return
    if group.rank and (why := group.tell(None)):
        raise RoleFailed(f"rank 0 could not join the run: {why}")
    try:
        yield
    except BaseException as error:
        if group.rank == 0:
            group.tell(str(error) or type(error).__name__)
        else:
            group.agree(False)
        raise
    if group.rank == 0:
        group.tell("")
    if not group.agree(True):
        raise RoleFailed("another rank could not join the run; its own error says why")


def end_after(error: BaseException | None, ended: str, ranks: int) -> str:
    """What ``Feed.close`` is told where the script leaves its feed by ``error``: "failed", or "" for what the run is by
    then, finished or stopped.

    Ctrl-C and ``sys.exit()`` are a wish. What fails once all is trained, the script's own evaluation for one, takes
    nothing back from a finished run; where it is an error of ours, weights that found no space for one, the run has
    not given what it was for, and can be gone on with. Several ranks fail together, so that they can start together.
    """
    is_wish = isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in (None, 0))
    is_ours = isinstance(error, AutoAssistError) and not isinstance(error, FeedMisuse)
    is_harmless = is_wish or (ended == "finished" and not is_ours)
    return "" if error is None or (is_harmless and ranks == 1) else "failed"
