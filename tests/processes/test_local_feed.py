"""``Feed.local``: a script or notebook that needs no second terminal."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import autoassist
from autoassist import local_feed
from protocol.errors import DataError, FeedMisuse, SettingError
from protocol.report import read_report
from tests.processes.roles import DEADLINE_S, export, roles, start_broker

pytestmark = pytest.mark.processes
N = 600
DATA = torch.utils.data.TensorDataset(torch.arange(float(N)))


def train(feed: autoassist.Feed) -> None:
    """A few instances go on having large losses, as the difficult ones do; a step takes its time."""
    while not feed.ended:
        for (x,) in feed.loader(DATA):
            torch.mm(torch.ones(900, 900), torch.ones(900, 900))
            feed.report(torch.where(x < N // 10, 5.0, 0.01 + x * 1e-5))


def wait_for_the_assistant(run_dir: Path) -> None:
    """Until it has joined; before that all would pass unfiltered."""
    log, deadline = run_dir / "logs" / "assistant-0.log", time.monotonic() + DEADLINE_S
    while not (log.exists() and "joined the run" in log.read_text()):
        assert time.monotonic() < deadline, log
        threading.Event().wait(0.05)


@pytest.mark.parametrize("knows", ["losses alone", "features and labels"])
def test_a_local_feed_filters_and_leaves_a_report_and_no_process(tmp_path: Path, knows: str) -> None:
    arrays: dict[str, Any] = {}
    if knows != "losses alone":
        arrays = {"features": np.eye(N, 8, dtype=np.float32), "labels": np.arange(N) % 10}
    with autoassist.Feed.local(DATA, run_dir=tmp_path / "run", batch_size=16, epochs=20, **arrays) as feed:
        assert feed.run_dir == tmp_path / "run"
        assert len(psutil.Process().children()) == 2
        wait_for_the_assistant(tmp_path / "run")
        train(feed)
    assert not psutil.Process().children()
    report = read_report(tmp_path / "run")
    assert report.status == "finished"
    assert report.selection.kept_fraction < 0.9
    assert {row["assistant"] for row in export(tmp_path / "run", "windows")} == {"assistant-0", "unfiltered"}


def test_a_local_feed_refuses_a_directory_that_holds_a_run(tmp_path: Path) -> None:
    with autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=1, policy="uniform") as feed:
        train(feed)
    with pytest.raises(SettingError, match="holds a run already"):
        autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=1)


@pytest.mark.parametrize("ends", ["in order", "with an error"])
def test_a_script_goes_on_with_its_local_run_from_its_own_checkpoint(tmp_path: Path, ends: str) -> None:
    """The same lines begin the run and go on with it."""

    def local(state: dict[str, Any]) -> autoassist.Feed:
        return autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=2, policy="random-drop", state=state)

    state: dict[str, Any] = {}
    with suppress(RuntimeError), local(state) as feed:
        for (x,) in feed.loader(DATA):
            feed.report(x)
            if feed.steps == 10:
                assert feed.cut()
                state = feed.state_dict()
            elif feed.steps == 15 and ends == "in order":
                feed.stop()
            elif feed.steps == 15:
                raise RuntimeError("the script's own")
    with local(state) as feed:
        assert feed.steps == 10
        train(feed)
    report = read_report(tmp_path)
    assert report.status == "finished"
    assert report.boss.instances == feed.instances
    offered = [row for row in export(tmp_path, "batches") if row["step"] < feed.steps]
    assert sorted(row["step"] for row in offered) == list(range(feed.steps))
    assert not psutil.Process().children()


def test_a_local_run_that_is_finished_is_not_taken_back_by_the_same_lines(tmp_path: Path) -> None:
    with autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=1, policy="uniform", state={}) as feed:
        train(feed)
    with pytest.raises(SettingError, match="its run is finished, see"):
        autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=1, policy="uniform", state={})
    assert read_report(tmp_path).status == "finished"


def test_several_ranks_are_told_that_a_local_feed_is_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_feed, "ranks_here", lambda: 2)
    with pytest.raises(SettingError, match=r"start `autoassist broker`, and use Feed\.connect"):
        autoassist.Feed.local(DATA, batch_size=16, epochs=1)


def test_a_local_feed_that_cannot_begin_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(autoassist.AutoAssistError, match="batch_size=5000"):
        autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=5000, staleness_bound=500)
    assert not psutil.Process().children()


def test_a_script_that_fails_at_once_does_not_wait_for_an_assistant_that_has_not_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newcomer's first mistake: the error is there, and the script must end with it."""
    monkeypatch.setattr(local_feed, "END_S", 10_000.0)
    with pytest.raises(FeedMisuse), autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=1) as feed:
        for (x,) in feed.loader(DATA):
            feed.report(x.mean())
    assert not psutil.Process().children()
    said = "".join(log.read_text() for log in (tmp_path / "logs").iterdir())
    assert "no broker answers" not in said, "the Assistant was left alone until it gave up"


def test_features_of_another_number_of_instances_end_the_assistant_with_both_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.zeros((7, 3), np.float32))
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path / "run")
        feed = autoassist.Feed.connect(address, dataset=DATA, batch_size=16, epochs=1)
        assistant = start("assistant", "--broker", address, "--features", str(tmp_path / "features.npy"))
        assert assistant.end() == DataError.exit_code
        assert "7 rows" in assistant.text and f"{N} instances" in assistant.text and "Traceback" not in assistant.text
        train(feed)
        feed.close()
        assert broker.end() == 0, broker.text


def test_the_death_of_an_assistant_is_told_with_where_its_words_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=1) as feed:
        wait_for_the_assistant(tmp_path)
        assert feed._roles is not None
        feed._roles.children[1].tell(signal.SIGKILL)
        deadline = time.monotonic() + DEADLINE_S
        while "assistant-0 is gone" not in caplog.text:
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        train(feed)
    assert "goes on without it" in caplog.text and str(tmp_path / "logs" / "assistant-0.log") in caplog.text
    assert caplog.text.count("is gone") == 1, "those that end with the run are no news"


def test_labels_that_are_no_classes_end_the_assistant_with_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.array([0, -1, 2]))
    with roles() as start:
        assistant = start("assistant", "--broker", "tcp://127.0.0.1:9", "--labels", str(tmp_path / "labels.npy"))
        assert assistant.end() == SettingError.exit_code
    assert "a least value of -1" in assistant.text and "Traceback" not in assistant.text
