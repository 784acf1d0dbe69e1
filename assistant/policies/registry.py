"""Policies by name: those built in, and those that installed packages register.

A package of yours registers one in its pyproject.toml, and ``--policy my-policy`` finds it where Assistants run:

    [project.entry-points."autoassist.policies"]
    my-policy = "my_package:MyPolicy"
"""

from __future__ import annotations

import inspect
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from assistant.policies.base import Given, Policy
from assistant.policies.checked import asked
from assistant.policies.controls import RandomDrop, Uniform
from assistant.policies.history import (
    Importance,
    ImportanceGradient,
    InfoBatch,
    Rho,
    SelectiveBackprop,
    read_irreducible_losses,
)
from assistant.policies.paper import AutoAssistPaper
from assistant.policies.predicted import AutoAssist
from assistant.policies.shared import Guarded
from assistant.tables import Tables
from protocol.errors import SettingError
from protocol.settings import RunSettings, require
from protocol.sparse import Features

ENTRY_POINTS = "autoassist.policies"
BUILT_IN: dict[str, type[Policy]] = {
    "autoassist": AutoAssist,
    "autoassist-paper": AutoAssistPaper,
    "uniform": Uniform,
    "random-drop": RandomDrop,
    "infobatch": InfoBatch,
    "selective-backprop": SelectiveBackprop,
    "rho": Rho,
    "importance": Importance,
    "importance-gradient": ImportanceGradient,
}

COMPARE_ONLY = "oracle"
"""A policy's name that no run can have."""


def find_policy(name: str) -> type[Policy]:
    """The class of a policy; raises SettingError where there is none of this name, or it does not load."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name == COMPARE_ONLY:
        raise SettingError(
            f"policy={name}: is an upper bound by fresh losses, whose cost is not counted, and so for comparisons "
            f"only; give autoassist compare WORKLOAD --policies uniform random-drop autoassist {name}"
        )
    registered = metadata.entry_points(group=ENTRY_POINTS)
    found = {entry.value: entry for entry in registered if entry.name == name}
    if not found:
        known = ", ".join([*BUILT_IN, *sorted({entry.name for entry in registered})])
        raise SettingError(f"policy={name}: unknown policy; one of {known}, or register it under {ENTRY_POINTS}")
    if len(found) > 1:
        raise SettingError(f"policy={name}: is registered as {' and as '.join(sorted(found))}; uninstall one of them")
    ((value, entry),) = found.items()
    try:
        kind = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module that calls sys.exit() too
        raise SettingError(
            f"policy={name}: {value} does not load ({type(error).__name__}: {error}); correct it"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Policy)):
        raise SettingError(f"policy={name}: {value} is no subclass of assistant.policies.Policy; derive it from that")
    makes_others = any("make" in vars(base) for base in kind.__mro__[: kind.__mro__.index(Policy)])
    if inspect.isabstract(kind) and not makes_others:
        lacking = " and ".join(sorted(kind.__abstractmethods__))
        raise SettingError(f"policy={name}: {value} lacks {lacking}, which every policy must have; add that")
    return kind


def require_policy(settings: RunSettings, n: int, labels: NDArray[np.int64] | None) -> None:
    """Refuse at once what an Assistant of this run would refuse; raises SettingError."""
    find_policy(settings.policy)
    needs_labels = settings.class_floor > 0.0 and labels is None
    require(not needs_labels, "class_floor", settings.class_floor, "the workload gives no labels; leave it at 0")
    if settings.irreducible_losses:
        read_irreducible_losses(settings.irreducible_losses, n)


def takes_fresh_losses(settings: RunSettings) -> bool:
    """Whether looking ahead is of use to the run's policy; raises SettingError where there is no such policy."""
    return find_policy(settings.policy).takes_fresh_losses


def make_policy(
    settings: RunSettings,
    n: int,
    features: Features | None = None,
    labels: NDArray[np.int64] | None = None,
    *,
    tables: Tables | None = None,
    looks_ahead: bool = False,
) -> Guarded:
    """The policy that the run's settings name, under the run's shared options; raises SettingError."""
    require_policy(settings, n, labels)
    kind = find_policy(settings.policy)
    floor = kind.default_floor if settings.floor is None else settings.floor
    tables = Tables() if tables is None else tables
    given = Given(
        settings=settings,
        n=n,
        floor=floor,
        features=features,
        labels=labels,
        looks_ahead=looks_ahead,
        tables=tables,
    )
    made: object = asked(settings.policy, kind, "make", lambda: kind.make(given))
    if not isinstance(made, Policy):
        what = f"{kind.__name__}.make gave {type(made).__name__}"
        raise SettingError(f"policy={settings.policy}: {what}; it must give a policy")
    return Guarded(made, given)
