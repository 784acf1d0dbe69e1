"""A policy of the user's own that keeps its promises, or says at once which one it breaks."""

from __future__ import annotations

import inspect
import logging
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import SupportsFloat, TypeVar

import numpy as np

from assistant.estimates import State
from assistant.policies.base import Moment, Policy
from protocol.arrays import F32, I64, empty_i64
from protocol.errors import AutoAssistError, SettingError
from protocol.message_base import MAX_TEXT
from protocol.messages import LossRecord

log = logging.getLogger("autoassist.assistant")
Answer = TypeVar("Answer")

OURS = ("assistant", "autoassist")
"""Packages whose policies are built in: what they raise is our mistake, and is not told as the user's."""
LARGEST = float(np.finfo(np.float32).max)
MOST_VERSION = 1 << 62
"""What a Selection can say."""
MOST_FIGURES = 900
"""Of a policy; a Goodbye holds 1000, and every Assistant has some of its own."""
FIGURES = f"{MOST_FIGURES} finite numbers at most, each under a printable name of 1 to {MAX_TEXT} characters"
MOST_TOLD = 3
"""Wrong figures that the warning names."""


def checked(policy: Policy, name: str) -> Policy:
    """The policy with its answers checked where it is the user's own; one that is built in as it is, at no cost."""
    return CheckedPolicy(policy, name) if _is_own(type(policy)) else policy


class CheckedPolicy(Policy):
    """Another policy, with every answer checked against the interface, however late in a run it comes.

    Each method raises SettingError, naming the class and the method, where the other one's raises or returns something
    else than ``Policy`` says. Of what is for the report, ``figures`` and ``set_aside``, the wrong is left out with one
    warning: they are asked for when the run is over, and an error then would cost the report all the rest. Price: a
    microsecond or two a call.
    """

    def __init__(self, policy: Policy, name: str) -> None:
        self.policy = policy
        self.name = name
        self._told: set[str] = set()

    def observe(self, record: LossRecord) -> None:
        """The policy's."""
        self._asked("observe", lambda: self.policy.observe(record))

    def observe_fresh(self, ids: I64, losses: F32) -> None:
        """The policy's."""
        self._asked("observe_fresh", lambda: self.policy.observe_fresh(ids, losses))

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """An array; ``Guarded`` looks at what is in it."""
        return self._asked("keep_probability", lambda: np.asarray(self.policy.keep_probability(ids, moment)))

    def utility(self, ids: I64, losses: F32) -> F32:
        """Finite numbers, shape ``(k,)``: a gate that has met one NaN would stay closed for ever."""
        found = self._asked("utility", lambda: np.asarray(self.policy.utility(ids, losses)))
        if found.dtype.kind in "biu":
            found = found.astype(np.float32)
        is_array = found.shape == (len(ids),) and found.dtype.kind == "f"
        if not is_array or not _is_finite(found):
            what = f"{found.dtype} of shape {found.shape}" + (", not all finite in float32" if is_array else "")
            raise self._wrong("utility", what, f"finite floats of shape ({len(ids)},)")
        return found

    def state_dict(self) -> State:
        """Arrays by name, none of them of objects, which a checkpoint cannot hold."""
        found: object = self._asked("state_dict", self.policy.state_dict)
        expected = "numbers in arrays by name"
        if not isinstance(found, Mapping):
            raise self._wrong("state_dict", _short(found), expected)
        state = self._asked("state_dict", lambda: {name: np.asarray(values) for name, values in found.items()})
        for name, values in state.items():
            if not isinstance(name, str) or values.dtype.hasobject:
                raise self._wrong("state_dict", f"{_short(name)}={_short(found[name])}", expected)
        return state

    def load_state_dict(self, state: State) -> None:
        """The policy's; what it raises for the state of something else stays a ValueError, by which an Assistant knows
        that it has to learn anew."""
        try:
            self.policy.load_state_dict(state)
        except (KeyError, ValueError) as error:
            raise ValueError(_told(self.name, type(self.policy), "load_state_dict", error)) from error
        except BaseException as error:
            _blame(self.name, type(self.policy), "load_state_dict", error)
            raise

    @property
    def version(self) -> int:
        """A count."""
        found: object = self._asked("version", lambda: self.policy.version)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if not isinstance(found, int | np.integer) or not 0 <= found <= MOST_VERSION:
            raise self._wrong("version", _short(found), "a whole number that is not negative")
        return int(found)

    @property
    def lift(self) -> tuple[float, float]:
        """Two numbers; (0, 0) where the first is not finite, and an error of 0 where that is not, as in the beginning
        of an estimate."""
        found: object = self._asked("lift", lambda: self.policy.lift)
        match [_number(value) for value in found] if isinstance(found, tuple | list | np.ndarray) else []:
            case [float(value), float(error)] if math.isfinite(value):
                return value, error if math.isfinite(error) else 0.0
            case [float(), float()]:
                return 0.0, 0.0
        raise self._wrong("lift", _short(found), "two numbers, a lift and its standard error")

    @property
    def figures(self) -> Mapping[str, float]:
        """Those that are finite numbers under a name that can be shown; of others it is told once that they are not."""
        try:
            found: object = self._asked("figures", lambda: self.policy.figures)
            if not isinstance(found, Mapping):
                raise self._wrong("figures", _short(found), "numbers by name")
            said = self._asked("figures", lambda: dict(found))
        except AutoAssistError as error:
            self._leave_out("figures", error)
            return {}
        kept = dict(islice(_showable(said), MOST_FIGURES))
        wrong = [f"{_short(name)}={_short(value)}" for name, value in said.items() if name not in kept]
        if wrong:
            named = ", ".join(wrong[:MOST_TOLD]) + (f" and {len(wrong) - MOST_TOLD} more" * (len(wrong) > MOST_TOLD))
            self._leave_out("figures", self._wrong("figures", named, FIGURES))
        return kept

    @property
    def set_aside(self) -> I64:
        """IDs; none where that is something else."""
        try:
            found = self._asked("set_aside", lambda: np.asarray(self.policy.set_aside))
            if found.size and (found.ndim != 1 or found.dtype.kind not in "iu"):
                raise self._wrong("set_aside", f"{found.dtype} of shape {found.shape}", "whole numbers of shape (k,)")
        except AutoAssistError as error:
            self._leave_out("set_aside", error)
            return empty_i64()
        return found.astype(np.int64, copy=False) if found.size else empty_i64()

    def _asked(self, method: str, ask: Callable[[], Answer]) -> Answer:
        return asked(self.name, type(self.policy), method, ask)

    def _wrong(self, method: str, found: str, expected: str) -> SettingError:
        return SettingError(f"{_who(self.name, type(self.policy), method)} gave {found}; it must give {expected}")

    def _leave_out(self, method: str, error: AutoAssistError) -> None:
        """Say so once: whoever watches the run asks again and again."""
        if method not in self._told:
            self._told.add(method)
            where = error if log.isEnabledFor(logging.DEBUG) else None
            log.warning("left out of the report: %s", error, exc_info=where)


def asked(name: str, kind: type[Policy], method: str, ask: Callable[[], Answer]) -> Answer:
    """What ``ask`` returns. Whatever it raises, ``sys.exit()`` too, is a SettingError that names policy and method
    where the policy is the user's own; errors of our own pass."""
    try:
        return ask()
    except BaseException as error:
        _blame(name, kind, method, error)
        raise


def _blame(name: str, kind: type[Policy], method: str, error: BaseException) -> None:
    """Raise what the user can mend; nothing where the mistake is not theirs."""
    if isinstance(error, AutoAssistError | KeyboardInterrupt) or not _is_own(kind):
        return
    from workloads.mistakes import REMEDY

    raise SettingError(f"{_told(name, kind, method, error)}; {REMEDY}") from error


def _told(name: str, kind: type[Policy], method: str, error: BaseException) -> str:
    """What happened, and where: the deepest line of the policy's own file, if it is there."""
    from workloads.mistakes import described, place_of  # on demand: an Assistant need not have a workload

    try:
        file = inspect.getsourcefile(kind)
    except TypeError:
        file = None
    return f"{_who(name, kind, method)} raised {described(error)} at {place_of(error, file)}"


def _who(name: str, kind: type[Policy], method: str) -> str:
    return f"policy={name}: {kind.__name__}.{method}"


def _is_own(kind: type[Policy]) -> bool:
    return kind.__module__.partition(".")[0] not in OURS


def _is_finite(values: F32) -> bool:
    """Whether float32 holds all of them, for a larger one overflows where it is squared; NaN is not held."""
    if not len(values):
        return True
    # The places of the extremes, or of a NaN, are found several times as fast as the extremes.
    return float(values[values.argmin()]) >= -LARGEST and float(values[values.argmax()]) <= LARGEST


def _showable(figures: Mapping[object, object]) -> Iterator[tuple[str, float]]:
    """Of figures, what a Goodbye can hold and a report can show."""
    for name, value in figures.items():
        number = _number(value)
        is_name = isinstance(name, str) and 0 < len(name) <= MAX_TEXT and name.isprintable()
        if is_name and number is not None and math.isfinite(number):
            yield str(name), number


def _number(value: object) -> float | None:
    """A number of any library as a float; None for what is none."""
    if not isinstance(value, SupportsFloat) or isinstance(value, np.ndarray):
        return None
    try:
        return float(value)
    except Exception:  # the user's own class
        return None


def _short(value: object) -> str:
    """On one line, whatever it is."""
    return " ".join(reprlib.repr(value).split())
