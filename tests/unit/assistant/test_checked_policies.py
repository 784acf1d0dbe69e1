"""A policy of the user's own that raises, or answers with what it should not: it is named, with its method."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import numpy as np
import pytest

from assistant.core import AssistantCore
from assistant.policies import Given, Guarded, InfoBatch, Moment, Policy, make_policy
from assistant.policies.checked import MOST_FIGURES
from assistant.worker import goodbye
from protocol.arrays import F32, I64
from protocol.codec import decode, encode
from protocol.errors import DataError, SettingError
from protocol.message_base import MAX_TEXT
from protocol.messages import Envelope, LossRecord
from protocol.settings import RunSettings
from tests.unit.assistant.streams import MIDDLE, record

N = 100
IDS = np.arange(4, dtype=np.int64)
LOSSES = np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32)
RECORD = record(0, IDS, LOSSES, 0)
LINE = r" at .*test_checked_policies\.py:\d+; mend it there; --debug shows the whole traceback$"


def broken() -> Any:
    """Of the user's own."""
    raise ValueError("my rule\nis broken")


class Mine(Policy):
    """Says of everything what ``answers`` has for it, a value or a function to call; else what it should."""

    answers: Mapping[str, Any] = {}

    @classmethod
    def make(cls, given: Given) -> Mine:
        return cls._said("make", cls())

    @classmethod
    def _said(cls, method: str, right: Any) -> Any:
        answer = cls.answers.get(method, right)
        return answer() if callable(answer) else answer

    def observe(self, record: LossRecord) -> None:
        self._said("observe", None)

    def observe_fresh(self, ids: I64, losses: F32) -> None:
        self._said("observe_fresh", None)

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        return self._said("keep_probability", np.full(len(ids), 0.5, dtype=np.float32))  # type: ignore[no-any-return]

    def utility(self, ids: I64, losses: F32) -> F32:
        return self._said("utility", losses)  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, np.ndarray]:
        return self._said("state_dict", {"seen": np.zeros(2)})  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._said("load_state_dict", None)

    @property
    def version(self) -> int:
        return self._said("version", 3)  # type: ignore[no-any-return]

    @property
    def lift(self) -> tuple[float, float]:
        return self._said("lift", (0.5, 0.1))  # type: ignore[no-any-return]

    @property
    def figures(self) -> Mapping[str, float]:
        return self._said("figures", {"mine": 2.0})  # type: ignore[no-any-return]

    @property
    def set_aside(self) -> I64:
        return self._said("set_aside", np.array([7, 5]))  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package with it were installed."""
    entry = metadata.EntryPoint("mine", f"{__name__}:Mine", "autoassist.policies")
    monkeypatch.setattr(metadata, "entry_points", lambda group: metadata.EntryPoints([entry]))


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Guarded]:
    """Makes the policy with these answers; by default without a gate and a guard, so that its own count."""

    def made(gate: bool = False, **answers: Any) -> Guarded:
        monkeypatch.setattr(Mine, "answers", answers)
        return make_policy(RunSettings(policy="mine", gate=gate, noise_guard="off", warmup_epochs=0), N)

    return made


CALLS: dict[str, Callable[[Guarded], object]] = {
    "observe": lambda policy: policy.observe(RECORD),
    "observe_fresh": lambda policy: policy.observe_fresh(IDS, LOSSES),
    "keep_probability": lambda policy: policy.keep_probability(IDS, MIDDLE),
    "utility": lambda policy: policy.observe(RECORD),
    "state_dict": lambda policy: policy.state_dict(),
    "version": lambda policy: policy.version,
    "lift": lambda policy: policy.lift,
}


@pytest.mark.parametrize("method", CALLS)
def test_what_a_policy_raises_names_it_and_its_method_and_where(method: str, mine: Callable[..., Guarded]) -> None:
    policy = mine(gate=method == "utility", **{method: broken})
    told = rf"^policy=mine: Mine\.{method} raised ValueError: my rule is broken{LINE}"
    with pytest.raises(SettingError, match=told) as refused:
        CALLS[method](policy)
    assert isinstance(refused.value.__cause__, ValueError), "whose traceback --debug shows"


def test_a_policy_that_cannot_be_made_is_named(mine: Callable[..., Guarded]) -> None:
    with pytest.raises(SettingError, match=rf"^policy=mine: Mine\.make raised ValueError: my rule is broken{LINE}"):
        mine(make=broken)
    with pytest.raises(SettingError, match=r"^policy=mine: Mine\.make gave int; it must give a policy$"):
        mine(make=3)


def test_a_policy_that_ends_the_process_is_named(mine: Callable[..., Guarded]) -> None:
    """Its Assistant would have gone as if all were well."""
    with pytest.raises(SettingError, match=r"Mine\.keep_probability raised SystemExit: 0 at"):
        mine(keep_probability=lambda: sys.exit(0)).keep_probability(IDS, MIDDLE)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("a file of mine: is gone; bring it back")])
def test_an_interrupt_and_what_a_policy_refuses_by_itself_pass_as_they_are(
    error: BaseException, mine: Callable[..., Guarded]
) -> None:
    def refuse() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        mine(observe=refuse).observe(RECORD)
    assert raised.value is error


def test_a_mistake_in_a_policy_that_is_built_in_is_not_told_as_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RunSettings(policy="infobatch", gate=False)
    monkeypatch.setattr(InfoBatch, "observe", lambda *_: broken())
    with pytest.raises(ValueError, match=r"^my rule"):
        make_policy(settings, N).observe(RECORD)
    monkeypatch.setattr(InfoBatch, "make", lambda *_: broken())
    with pytest.raises(ValueError, match=r"^my rule"):
        make_policy(settings, N)


def test_the_state_of_something_else_stays_what_an_assistant_learns_anew_for(mine: Callable[..., Guarded]) -> None:
    """It takes a KeyError or a ValueError for that; anything else would meet it again at each start."""
    policy = mine(load_state_dict=broken)
    with pytest.raises(
        ValueError, match=r"^policy=mine: Mine\.load_state_dict raised ValueError: my rule is broken at"
    ):
        policy.load_state_dict({})
    policy = mine(load_state_dict=lambda: 1 / 0)
    with pytest.raises(SettingError, match=r"^policy=mine: Mine\.load_state_dict raised ZeroDivisionError"):
        policy.load_state_dict({})


WRONG = [
    ("utility", np.full(4, np.nan), r"float64 of shape \(4,\), not all finite in float32; .* floats of shape \(4,\)"),
    ("utility", [1.0, -np.inf, 1.0, 1.0], r"float64 of shape \(4,\), not all finite in float32"),
    ("utility", [1.0, 1e200, 1.0, 1.0], r"float64 of shape \(4,\), not all finite in float32"),
    ("utility", np.zeros(3), r"float64 of shape \(3,\); it must give finite floats of shape \(4,\)"),
    ("utility", ["1", "2", "3", "4"], r"<U1 of shape \(4,\); it"),
    ("state_dict", None, "None; it must give numbers in arrays by name"),
    ("state_dict", {"seen": object()}, "'seen'=<object obj.*>; it must"),
    ("state_dict", {3: np.zeros(2)}, r"3=array\(\[0., 0.\]\); it must"),
    ("version", "three", "'three'; it must give a whole number that is not negative"),
    ("version", -1, "-1; it must"),
    ("lift", 0.5, "0.5; it must give two numbers"),
    ("lift", (0.5, "0.1"), r"\(0.5, '0.1'\); it must"),
]


@pytest.mark.parametrize("method, answer, what", WRONG)
def test_what_a_policy_answers_that_it_should_not_is_refused(
    method: str, answer: object, what: str, mine: Callable[..., Guarded]
) -> None:
    policy = mine(gate=method == "utility", **{method: answer})
    with pytest.raises(SettingError, match=rf"^policy=mine: Mine\.{method} gave {what}"):
        CALLS[method](policy)


def test_what_a_policy_answers_that_is_right_is_taken_as_it_is(mine: Callable[..., Guarded]) -> None:
    policy = mine(version=np.int64(3), lift=(np.float32(0.5), np.inf), set_aside=[7, 5])
    assert policy.version == 3 and policy.lift == (0.5, 0.0)
    assert policy.set_aside.dtype == np.int64 and policy.set_aside.tolist() == [7, 5]
    policy = mine(version=3.0, lift=np.array([0.5, 0.25]))
    assert policy.version == 3 and policy.lift == (0.5, 0.25)
    assert list(policy.state_dict()) == ["policy.seen"]
    assert mine(lift=(np.nan, 1.0)).lift == (0.0, 0.0), "not known yet"
    policy = mine(gate=True, utility=LOSSES[::-1].tolist())
    policy.observe(RECORD)
    assert policy.gate is not None and np.isfinite(policy.gate.state_dict()["sums"]).all()


def said_at_the_end(policy: Guarded) -> Any:
    """The Goodbye, as a broker reads it."""
    core = AssistantCore(policy.settings, policy, figures={"instances_scored": 8.0})
    return decode(encode(Envelope(seq=1, span=1, ack=0, message=goodbye(core, "finished")))).message


LONG = "a" * (MAX_TEXT + 1)
OTHERS = {"instances_scored": 8.0, "lift": 0.5, "lift_error": 0.1}


@pytest.mark.parametrize("value", ["text", None, np.nan, np.inf, [1.0], np.zeros(2), 10**400])
def test_a_figure_that_is_no_number_is_told_once_and_costs_the_report_no_other(
    value: object, mine: Callable[..., Guarded], caplog: pytest.LogCaptureFixture
) -> None:
    policy = mine(figures={"mine": np.float32(2.0), "wrong": value})
    assert said_at_the_end(policy).figures == {**OTHERS, "mine": 2.0} == said_at_the_end(policy).figures
    (told,) = caplog.messages
    assert told.startswith("left out of the report: policy=mine: Mine.figures gave 'wrong'=")
    assert told.endswith("it must give 900 finite numbers at most, each under a printable name of 1 to 200 characters")


@pytest.mark.parametrize("name", [LONG, "", "two\nlines", "\ud800", 3])
def test_a_figure_whose_name_the_broker_would_not_take_is_left_out(
    name: object, mine: Callable[..., Guarded], caplog: pytest.LogCaptureFixture
) -> None:
    assert said_at_the_end(mine(figures={name: 1.0, "mine": 2.0})).figures == {**OTHERS, "mine": 2.0}
    assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0] and len(caplog.messages[0]) < 300


def test_more_figures_than_a_goodbye_holds_are_left_out(
    mine: Callable[..., Guarded], caplog: pytest.LogCaptureFixture
) -> None:
    many = {f"figure {i}": float(i) for i in range(MOST_FIGURES + 200)}
    assert len(said_at_the_end(mine(figures=many)).figures) == MOST_FIGURES + len(OTHERS)
    assert "'figure 900'=900.0, 'figure 901'=901.0, 'figure 902'=902.0 and 197 more; it must give 900" in caplog.text


@pytest.mark.parametrize("answer", [broken, None, 3])
def test_an_assistant_says_goodbye_whatever_becomes_of_the_last_words_of_its_policy(
    answer: object, mine: Callable[..., Guarded], caplog: pytest.LogCaptureFixture
) -> None:
    """The run is over: an error would cost the report all the other figures."""
    said = said_at_the_end(mine(figures=answer, set_aside=answer))
    assert said.figures == OTHERS and said.set_aside.tolist() == []
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2
    assert "policy=mine: Mine.figures" in caplog.messages[0] and "policy=mine: Mine.set_aside" in caplog.messages[1]


def test_the_traceback_of_last_words_is_there_with_debug(
    mine: Callable[..., Guarded], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "autoassist"):
        assert mine(figures=broken).figures == {"lift": 0.5, "lift_error": 0.1}
    assert "Traceback" not in caplog.text
    with caplog.at_level(logging.DEBUG, "autoassist"):
        assert mine(figures=broken).figures == {"lift": 0.5, "lift_error": 0.1}
    assert "in broken" in caplog.text


@pytest.mark.parametrize("answer", [[1, 2, 3, 4], [True, False, True, True]])
def test_a_utility_may_be_counts_or_whether_a_loss_is_above_a_level(
    answer: object, mine: Callable[..., Guarded]
) -> None:
    CALLS["utility"](mine(gate=True, utility=answer))
