"""An Assistant's process begins again where its checkpoint stands, wherever its tables lie."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assistant.policies import make_policy
from assistant.policies.shared import Guarded
from assistant.tables import MAP_FROM
from assistant.worker import Assistant, AssistantSettings
from protocol.client import ConnectSettings
from protocol.errors import PeerFenced, SettingError
from protocol.messages import AnyMessage, LossRecord, Stop, Welcome
from protocol.session import SessionTimes
from protocol.settings import RunSettings
from tests.unit.assistant.streams import MIDDLE, record

N = 300
NOBODY = ConnectSettings(broker="tcp://127.0.0.1:9")


def loss_record(position: int) -> LossRecord:
    rng = np.random.default_rng(position)
    ids = rng.choice(N, 32, replace=False)
    return record(position, ids, rng.exponential(size=32) * (1 + ids % 5), position // 9)


@contextmanager
def joined(folder: Path, map_from: int, run_id: str = "run", *, position: int = 100, n: int = N) -> Iterator[Assistant]:
    """An Assistant that has just joined a run; its end is a kill, as far as its files can tell."""
    assistant = Assistant(AssistantSettings(state_dir=folder, map_from=map_from), NOBODY)
    try:
        welcome = Welcome(run_id=run_id, stream="s", settings=RunSettings(), position=position, n=n)
        assistant._join(welcome)
        yield assistant
    finally:
        assistant.client.close()
        assistant.tables.close()


def learn(assistant: Assistant, positions: range) -> np.ndarray:
    """Learn from these records; what it would keep then."""
    assert assistant.core is not None
    for position in positions:
        assistant.core.receive(loss_record(position))
        assistant.core.work()
    return assistant.core.policy.keep_probability(np.arange(N), MIDDLE)


@pytest.mark.parametrize("map_from", [0, MAP_FROM])
def test_a_restarted_assistant_is_as_at_its_checkpoint_and_learns_the_rest_again(tmp_path: Path, map_from: int) -> None:
    with joined(tmp_path, map_from) as assistant:
        learn(assistant, range(60))
        assistant._save(1)
        expected = learn(assistant, range(60, 80))
    with joined(tmp_path, map_from) as again:
        assert again.core is not None and again.core.position == 60
        assert np.array_equal(learn(again, range(60, 80)), expected)
        assert (expected < 1.0).any(), "else nothing was learned"


@pytest.mark.parametrize("map_from", [0, MAP_FROM])
def test_in_another_run_it_begins_with_nothing(tmp_path: Path, map_from: int) -> None:
    with joined(tmp_path, map_from) as assistant:
        learn(assistant, range(60))
        assistant._save(1)
    with joined(tmp_path, map_from, "another") as again:
        assert again.core is not None and again.core.position == 0
        assert (learn(again, range(0)) == 1.0).all()
        expected = learn(again, range(60))
    with joined(tmp_path / "fresh", map_from, "another") as fresh:
        assert np.array_equal(learn(fresh, range(60)), expected)


@pytest.mark.parametrize(("before", "after"), [(0, MAP_FROM), (MAP_FROM, 0)])
def test_a_checkpoint_whose_tables_lay_elsewhere_is_removed_and_the_log_taken(
    tmp_path: Path, before: int, after: int
) -> None:
    with joined(tmp_path, before) as assistant:
        learn(assistant, range(5))
        assistant._save(1)
    with pytest.raises(PeerFenced, match="is removed"), joined(tmp_path, after):
        pass
    with joined(tmp_path, after) as again:
        assert again.core is not None and again.core.position == 0


def test_a_mapped_assistant_s_checkpoint_is_small_however_many_instances_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assistant.tables.os.posix_fallocate", lambda *_: None)
    with joined(tmp_path, MAP_FROM, n=10**8) as assistant:
        learn(assistant, range(5))
        assistant._save(1)
    assert (tmp_path / "assistant-0.npz").stat().st_size < 200e3


def joining_slowly(monkeypatch: pytest.MonkeyPatch, said: list[list[AnyMessage]]) -> tuple[Assistant, str]:
    """An Assistant whose policy is not made before the broker has had its say, and how its joining ended."""
    heard, is_made = list(said), threading.Event()

    def made_at_last(*given: Any, **named: Any) -> Guarded:
        assert is_made.wait(60), "nobody has listened to the broker"
        return make_policy(*given, **named)

    def poll(timeout_s: float, wake_fd: int | None = None) -> list[AnyMessage]:
        if len(heard) == 1:
            is_made.set()
        return heard.pop(0) if heard else []

    monkeypatch.setattr("assistant.worker.make_policy", made_at_last)
    assistant = Assistant(AssistantSettings(), NOBODY, times=SessionTimes(heartbeat_s=0.01))
    monkeypatch.setattr(assistant.client, "poll", poll)
    try:
        welcome = Welcome(run_id="run", stream="s", settings=RunSettings(), position=0, n=N)
        return assistant, assistant._take(welcome)
    finally:
        assistant.client.close()
        assistant.tables.close()


def test_an_assistant_is_not_silent_while_its_models_are_made_and_loses_nothing_of_what_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Condensing two GB of features takes longer than the silence after which a role is lost."""
    assistant, ended = joining_slowly(monkeypatch, [[loss_record(0)], [], [loss_record(1), loss_record(2)]])
    assert ended == "" and assistant.core is not None
    assert assistant.core.position == 3 and [r.position for r in assistant.core.records] == [0, 1, 2]
    assert assistant.client.session.hello.position == 3


def test_a_run_that_ends_while_the_models_are_made_ends_the_assistant(monkeypatch: pytest.MonkeyPatch) -> None:
    assert joining_slowly(monkeypatch, [[loss_record(0)], [Stop(reason="finished")]])[1] == "finished"


def test_a_policy_that_cannot_be_made_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RunSettings(policy="no-such-policy")
    assistant = Assistant(AssistantSettings(), NOBODY)
    try:
        with pytest.raises(SettingError, match="policy=no-such-policy: unknown policy"):
            assistant._join(Welcome(run_id="run", stream="s", settings=settings, position=0, n=N))
    finally:
        assistant.client.close()
        assistant.tables.close()


def test_a_negative_number_of_instances_is_refused() -> None:
    with pytest.raises(SettingError, match="map_from"):
        AssistantSettings(map_from=-1)
