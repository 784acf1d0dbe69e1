"""How a feed ends with its script, and what becomes of who goes on with it afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from boss.feed import Feed
from boss.line import LocalSettings
from protocol.errors import FeedMisuse, SettingError
from protocol.report import read_report

DATA = torch.utils.data.TensorDataset(torch.arange(96.0))


def connect(address: str, **settings: Any) -> Feed:
    waits = LocalSettings(on_broker_loss="wait")  # on a busy machine it would draw batches of its own
    wanted: dict[str, Any] = {"batch_size": 16, "epochs": 1, "policy": "uniform", "local": waits, **settings}
    return Feed.connect(address, dataset=DATA, **wanted)


def train(feed: Feed, steps: int = 1000) -> None:
    for number, (x,) in enumerate(feed.loader(DATA)):
        feed.report(x)
        if number + 1 == steps:
            return


# Closed

AFTERWARDS: dict[str, Callable[[Feed], Any]] = {
    "loader": lambda feed: next(iter(feed.loader(DATA))),
    "batch_sampler": lambda feed: next(iter(feed)),
    "cut": lambda feed: feed.cut(),
    "load_state_dict": lambda feed: feed.load_state_dict({}),
    "record_metric": lambda feed: feed.record_metric("accuracy", 0.5),
}


@pytest.mark.parametrize("use", AFTERWARDS.values(), ids=AFTERWARDS.keys())
def test_a_closed_feed_says_so_each_time_that_it_is_used(address: str, use: Callable[[Feed], Any]) -> None:
    feed = connect(address)
    train(feed, steps=2)
    feed.close()
    for _ in range(2):
        with pytest.raises(FeedMisuse, match=r"this feed is closed; begin another one with Feed\.local"):
            use(feed)


@pytest.mark.parametrize("use", ["report", "skip", "next"])
def test_the_batch_at_hand_of_a_closed_feed_is_nobodys(address: str, use: str) -> None:
    feed = connect(address)
    batches = iter(feed)
    ids = next(batches)
    feed.close()
    with pytest.raises(FeedMisuse, match="this feed is closed"):
        {"report": lambda: feed.report(torch.ones(len(ids))), "skip": feed.skip, "next": lambda: next(batches)}[use]()


def test_a_closed_feed_whose_run_is_over_gives_nothing_as_an_open_one_does(address: str) -> None:
    with connect(address) as feed:
        train(feed)
        assert list(feed) == []
    for _ in range(2):
        assert list(feed) == list(feed.loader(DATA)) == []
    assert feed.ended == "finished" and feed.state_dict()["step"] == 5


# The end of a script


def test_an_error_after_the_end_of_the_run_leaves_it_finished(address: str, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), connect(address) as feed:
        train(feed)
        assert feed.ended == "finished"
        raise ZeroDivisionError
    assert read_report(tmp_path).status == "finished"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0), SystemExit()], ids=repr)
def test_who_ends_the_script_in_order_has_stopped_the_run(address: str, tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), connect(address) as feed:
        train(feed, steps=2)
        raise error
    assert read_report(tmp_path).status == "stopped"
    assert feed._line.hurries, "a broker that is away would be waited for"


@pytest.mark.parametrize(("since", "status"), [("before the feed", "stopped"), ("since then", "failed")])
def test_only_an_error_since_the_feed_began_makes_its_run_failed_at_exit(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since: str, status: str
) -> None:
    """A notebook, or ``python -i``, remembers the last error, however long ago."""
    monkeypatch.setattr(sys, "last_value", ValueError("of an earlier cell"), raising=False)
    feed = connect(address)
    train(feed, steps=2)
    if since == "since then":
        monkeypatch.setattr(sys, "last_value", ValueError("that ends the script"))
    feed._close_at_exit()
    assert read_report(tmp_path).status == status


# A state


@pytest.mark.parametrize("state", [{"foo": 1}, "last.pt", None])
def test_a_feed_that_is_given_a_wrong_state_goes_on_as_it_was(address: str, tmp_path: Path, state: Any) -> None:
    with connect(address) as feed:
        with pytest.raises(SettingError, match="is not a feed's state_dict"):
            feed.load_state_dict(state)
        train(feed)
    assert read_report(tmp_path).status == "finished"


def test_a_metric_whose_name_no_broker_would_take_is_refused_where_it_is_recorded(address: str) -> None:
    with connect(address) as feed:
        train(feed, steps=2)
        with pytest.raises(SettingError, match="201 characters; give 200 at most"):
            feed.record_metric("x" * 201, 0.5)
        feed.record_metric("x" * 200, 0.5)
        assert feed.close()
