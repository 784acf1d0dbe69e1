"""What the noise guard sets aside is listed in the report: the surest first, bounded, whoever says it."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from assistant.core import AssistantCore
from assistant.policies import Policy, Uniform, make_policy
from assistant.policies.guards import BEGINNING, NoiseGuard
from assistant.worker import goodbye
from broker.report import build_report
from protocol.codec import decode, encode
from protocol.messages import MOST_SET_ASIDE, Envelope, Goodbye
from protocol.settings import RunSettings
from tests.unit.assistant.streams import N
from tests.unit.broker.world import joined

ALL = np.arange(N)


def guard_of(streaks: dict[int, int], losses: dict[int, float]) -> NoiseGuard:
    """A guard whose instances were above the level so often in a row, last with these losses."""
    guard = NoiseGuard(N)
    guard.observe(ALL[:BEGINNING], np.full(BEGINNING, 2.0, dtype=np.float32))
    for turn in range(max(streaks.values())):
        ids = np.array([i for i, streak in streaks.items() if turn >= max(streaks.values()) - streak])
        guard.observe(ids, np.array([losses.get(i, 3.0) for i in ids], dtype=np.float32))
    return guard


def test_the_longest_above_the_level_comes_first_then_the_greatest_last_loss() -> None:
    guard = guard_of({7: 3, 8: 5, 9: 3, 10: 2, 11: 3}, {7: 3.0, 8: 2.5, 9: 4.0, 11: 3.5})
    assert guard.set_aside.tolist() == [8, 9, 11, 7]
    again = NoiseGuard(N)
    again.load_state_dict(guard.state_dict())
    assert again.set_aside.tolist() == [8, 9, 11, 7]


def core_with(policy: Policy) -> AssistantCore:
    return AssistantCore(RunSettings(noise_guard="on"), policy)


def test_an_assistant_s_last_words_list_the_first_thousand_and_count_all() -> None:
    policy = make_policy(RunSettings(noise_guard="on"), N)
    assert policy.noise is not None and N > MOST_SET_ASIDE
    policy.noise.streak[:] = 3
    policy.noise.streak[40] = 9
    said = goodbye(core_with(policy), "finished")
    assert len(said.set_aside) == MOST_SET_ASIDE and said.set_aside[0] == 40
    assert said.figures["set_aside"] == N


@pytest.mark.parametrize("core", [None, core_with(Uniform()), core_with(make_policy(RunSettings(), N))])
def test_without_a_guard_the_list_is_empty(core: AssistantCore | None) -> None:
    assert goodbye(core, "stopped").set_aside.tolist() == []


def test_an_older_assistant_s_goodbye_has_no_list_and_an_older_broker_passes_over_ours() -> None:
    said = Goodbye(reason="finished", figures={"lift": 1.0}, set_aside=np.array([4, 2]))
    (frame,) = encode(Envelope(seq=1, span=1, ack=0, message=said))
    raw = msgspec.msgpack.decode(frame)
    assert raw[-1][:3] == ["goodbye", "finished", {"lift": 1.0}] and len(raw[-1]) == 4
    raw[-1] = raw[-1][:3]
    older = decode([msgspec.msgpack.encode(raw)]).message
    assert isinstance(older, Goodbye) and older.set_aside.tolist() == []


def test_the_report_lists_them_under_the_assistant_and_believes_no_nonsense() -> None:
    made, no_hub = joined(100, epochs=2, batch_size=10), SimpleNamespace(refused={}, refused_from={})
    ids = np.concatenate([[5, 3, -1, 100], np.tile(np.arange(100), 20)]).astype(np.int64)
    made.say(made.assistants[0].peer, Goodbye(reason="stopped", figures={"set_aside": 2004.0}, set_aside=ids))
    (assistant,) = build_report(made.core, no_hub).assistants  # type: ignore[arg-type]
    assert assistant.set_aside[:3] == [5, 3, 0] and len(assistant.set_aside) == MOST_SET_ASIDE - 2
    assert assistant.figures == {"set_aside": 2004.0}
