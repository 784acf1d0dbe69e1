"""What an Assistant shows of the instances to a person."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from assistant import preview
from assistant.core import AssistantCore
from assistant.policies import Moment, make_policy
from assistant.policies.guards import BEGINNING
from assistant.preview import DEPTH, LOSS_BINS, LossHistory, Previews, fitting, loss_histogram
from protocol.codec import decode, encode
from protocol.messages import MOST_PIXELS, MOST_TEXT, Envelope, LossRecord, Preview, PreviewReply, Window
from protocol.settings import RunSettings

N = 1000
MOMENT = Moment(3, 0.5)


def record(ids: Any, losses: Any, step: int = 0) -> LossRecord:
    ids = np.asarray(ids, np.int64)
    losses = np.broadcast_to(np.asarray(losses, np.float32), ids.shape).copy()
    return LossRecord(
        position=step, step=step, rank=0, learned_through=step, epoch=step, ids=ids, losses=losses,
        keep_probabilities=np.ones(len(ids), np.float32),
    )  # fmt: skip


def trained(n: int = N, times: int = 3) -> LossHistory:
    """All of them so many times at loss 1, which is also what a Boss that knows nothing loses."""
    history = LossHistory(n)
    for step in range(times):
        history.observe(record(np.arange(n), 1.0, step))
    return history


def answered(previews: Previews, instances: int = 4, policy: str = "uniform") -> PreviewReply:
    """As it comes out of the wire."""
    rule = make_policy(RunSettings(policy=policy), N, None, None)
    reply = previews.answer(Preview(number=7, instances=instances), "assistant-0", rule, MOMENT)
    found = decode(encode(Envelope(seq=0, span=1, ack=0, message=reply))).message
    assert isinstance(found, PreviewReply)
    return found


def test_the_last_losses_are_remembered_in_order() -> None:
    history = LossHistory(5)
    for step in range(DEPTH + 3):
        history.observe(record([2], float(step), step))
    assert history.of(2).tolist() == list(range(3, DEPTH + 3)) and history.trained[2] == DEPTH + 3
    assert history.last(np.array([2])).tolist() == [DEPTH + 2] and history.of(1).tolist() == []


def test_kept_most_are_the_most_often_trained_and_shrunk_most_the_least_often() -> None:
    history = trained()
    history.observe(record([5, 6], [0.2, 0.9], 3))
    history.losses[8, :] = 0.01
    assert history.most_kept(2).tolist() == [6, 5]
    assert history.most_shrunk(1).tolist() == [8]
    assert len(history.most_kept(2 * N)) == N


def test_what_was_never_trained_is_not_among_them() -> None:
    history = LossHistory(N)
    assert history.most_kept(3).tolist() == history.most_shrunk(3).tolist() == history.most_suspect(3).tolist() == []
    history.observe(record([4], 1.0))
    assert history.most_shrunk(3).tolist() == [4]


def test_suspected_are_those_that_lose_more_than_an_untrained_network_three_times_in_a_row() -> None:
    history = trained()
    assert history.untrained_level == 1.0
    for step in range(3):
        history.observe(record([1, 2, 3, 4], [0.1, 5.0, 7.0, 5.0 if step != 1 else 0.1], 3 + step))
    assert history.most_suspect(9).tolist() == [3, 2]


def test_nothing_is_suspected_before_it_is_known_what_an_untrained_network_loses() -> None:
    history = LossHistory(10)
    for step in range(4):
        history.observe(record([1], 9.0, step))
    assert BEGINNING > 4 and history.most_suspect(9).tolist() == []


def test_a_huge_data_set_is_remembered_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "MOST_KNOWN", 256)
    previews = Previews(N, show=str)
    previews.history.observe(record([0, 1, 4, 999], [1.0, 2.0, 3.0, 4.0]))
    assert previews.history.every == 4 and len(previews.history.trained) == 250
    reply = answered(previews)
    assert reply.known == 2 and [shown.id for shown in reply.groups["kept"]] == [4, 0]
    assert [shown.text for shown in reply.groups["kept"]] == ["4", "0"]


def test_an_instance_is_shown_with_its_label_its_losses_and_its_probability() -> None:
    previews = Previews(N, np.arange(N) % 10, lambda i: np.full((8, 6), i % 256, np.uint8))
    previews.history = trained()
    previews.history.observe(record([77], 2.5, 3))
    shown = answered(previews).groups["kept"][0]
    assert (shown.id, shown.label, shown.trained, shown.keep_probability) == (77, 7, 4, 1.0)
    assert shown.losses.tolist() == [1.0, 1.0, 1.0, 2.5]
    assert (shown.height, shown.width) == (8, 6) and shown.pixels == bytes([77]) * 48


@pytest.mark.parametrize("view", [np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4), np.float32), ValueError("mine")])
def test_a_workload_that_cannot_show_an_instance_does_no_harm(view: Any, caplog: pytest.LogCaptureFixture) -> None:
    def show(_: int) -> Any:
        if isinstance(view, Exception):
            raise view
        return view

    previews = Previews(N, show=show)
    previews.history = trained()
    with caplog.at_level(logging.WARNING):
        shown = [one for group in answered(previews).groups.values() for one in group]
    assert shown and not any(one.pixels or one.text for one in shown)
    assert len(caplog.records) == 1 and "without pictures" in caplog.text


def test_large_pictures_and_long_texts_are_cut_to_what_may_travel() -> None:
    large = fitting(np.zeros((500, 120, 3), np.uint8))
    assert isinstance(large, np.ndarray) and max(large.shape) <= MOST_PIXELS and large.shape[2] == 3
    previews = Previews(N, show=lambda _: "word " * 1000)
    previews.history = trained()
    assert len(answered(previews).groups["kept"][0].text) == MOST_TEXT
    largest = Previews(N, show=lambda _: np.zeros((MOST_PIXELS, MOST_PIXELS, 3), np.uint8))
    largest.history = trained()
    assert len(answered(largest, instances=32).groups["kept"]) == 32


def test_the_histogram_of_losses_counts_each_once() -> None:
    for losses in ([1e-5, 0.1, 2.0, 2.0], [0.0, 1.0], [-3.0, 4.0], [2.0, 2.0], [0.0], [1e-30, 5.0]):
        edges, counts = loss_histogram(np.array(losses, np.float32))
        assert len(edges) == LOSS_BINS + 1 and counts.sum() == len(losses) and (np.diff(edges) > 0).all(), losses
    assert len(loss_histogram(np.zeros(0, np.float32))[1]) == 0


def test_the_histogram_of_pi_is_that_of_a_scoring_now() -> None:
    previews = Previews(N)
    previews.history = trained()
    assert answered(previews).keep_counts.tolist() == [0] * 19 + [N]
    half = answered(previews, policy="random-drop").keep_counts
    assert half.sum() == N and half[10] == N


def test_a_core_lets_the_history_hear_what_the_policy_hears_and_remembers_the_moment() -> None:
    settings = RunSettings(policy="uniform")
    core = AssistantCore(settings, make_policy(settings, N, None, None), watcher=LossHistory(N))
    core.receive(record([3, 4], [np.nan, 2.0]))
    core.receive(Window(window=0, attempt=0, epoch=2, progress=0.25, ids=np.arange(4)))
    while core.has_work():
        core.work()
    assert core.watcher is not None and core.watcher.trained[[3, 4]].tolist() == [0, 1]
    assert core.moment == Moment(2, 0.25)
