"""What a script gives to begin a feed, looked at before anybody is told; and as what its errors end the run."""

from __future__ import annotations

from typing import Any

import pytest

from boss.clocks import Clocks
from boss.feed import Feed
from boss.figures import state_of
from boss.joining import boss_hello, chosen_settings, end_after, require_state
from boss.plan import BossPlan
from protocol.errors import FeedMisuse, SettingError, StoreError, TrainingDiverged
from protocol.messages import NO_RESTORE
from protocol.settings import RunSettings

NOWHERE = "tcp://127.0.0.1:9"
STATE = state_of(Clocks(), BossPlan(0, RunSettings(), 100), instances=0, dropped=0, run_id="r")


@pytest.mark.parametrize("state", [None, {}, STATE], ids=["none", "the beginning", "a feed's"])
def test_a_state_that_a_feed_gave_is_taken(state: dict[str, Any] | None) -> None:
    require_state(state)


@pytest.mark.parametrize("later", ["gradients_dropped", "run_id"])
def test_a_state_of_an_earlier_version_is_taken(later: str) -> None:
    require_state({name: value for name, value in STATE.items() if name != later})


WRONG: dict[str, tuple[Any, str]] = {
    "a whole checkpoint": (
        {"net": {}, "feed": STATE},
        r"a dict of \['net', 'feed'\] .* step, .* such as saved\['feed'",
    ),
    "a path": ("last.pt", "state='last.pt': is not a feed's state_dict"),
    "a list": ([1], r"state=\[1\]: is not a feed's state_dict"),
    "no step": ({**STATE, "step": None}, r"\(missing, or no numbers: step\)"),
    "no clocks": ({**STATE, "clocks": {}}, r"\(missing, or no numbers: clocks\.wall_s, "),
}


@pytest.mark.parametrize(("state", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_state_is_refused_before_a_broker_is_looked_for(state: Any, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        Feed.connect(NOWHERE, n=100, batch_size=4, state=state, connect_timeout_s=0.1)


def test_only_an_empty_state_takes_a_run_back_to_its_beginning() -> None:
    def step_of(state: dict[str, Any] | None, rank: int = 0) -> int:
        return boss_hello(RunSettings(), state, rank=rank, dataset_id="d", n=100, workload="").restore_step

    assert step_of({}) == -1
    assert step_of({**STATE, "step": 7}) == 7
    assert step_of(None) == step_of({}, rank=1) == NO_RESTORE
    with pytest.raises(KeyError):
        step_of({"feed": STATE})


def test_settings_given_whole_and_by_word_are_refused_with_the_words() -> None:
    with pytest.raises(SettingError, match=r"batch_size=50, epchs=3: given beside settings=…"):
        Feed.connect(NOWHERE, n=100, settings=RunSettings(batch_size=2), batch_size=50, epchs=3)


@pytest.mark.parametrize("settings", [{"batch_size": 3}, {}, 3])
def test_settings_that_are_none_are_refused(settings: Any) -> None:
    with pytest.raises(SettingError, match=r"settings=.*: must be RunSettings\(…\)"):
        Feed.connect(NOWHERE, n=100, settings=settings)


def test_settings_are_completed_only_where_they_are_given_by_word() -> None:
    assert chosen_settings(None, {"batch_size": 3}, 2, assistants=4) == RunSettings(
        batch_size=3, world_size=2, assistants=4
    )
    whole = RunSettings(batch_size=3)
    assert chosen_settings(whole, {}, 1, assistants=4) is whole


ENDS: list[tuple[BaseException | None, str, int, str]] = [
    (None, "", 1, ""),
    (ValueError(), "", 1, "failed"),
    (ValueError(), "finished", 1, ""),
    (FeedMisuse(), "finished", 1, ""),
    (StoreError("the weights found no space"), "finished", 1, "failed"),
    (TrainingDiverged(), "finished", 1, "failed"),
    (ValueError(), "stopped", 1, "failed"),
    (KeyboardInterrupt(), "", 1, ""),
    (SystemExit(), "", 1, ""),
    (SystemExit(0), "", 1, ""),
    (SystemExit(3), "", 1, "failed"),
    (SystemExit("why"), "", 1, "failed"),
    (KeyboardInterrupt(), "", 2, "failed"),
    (ValueError(), "finished", 2, "failed"),
]


@pytest.mark.parametrize(("error", "ended", "ranks", "end"), ENDS, ids=repr)
def test_a_run_ends_as_what_its_script_has_left_it_by(
    error: BaseException | None, ended: str, ranks: int, end: str
) -> None:
    assert end_after(error, ended, ranks) == end
