"""``Feed.local`` where a role of its dies for which nobody stands in: an error at once, and the way to go on."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import autoassist
from protocol.errors import RoleFailed
from protocol.report import read_report
from tests.processes.roles import DEADLINE_S, export, roles
from tests.processes.test_local_feed import DATA, train, wait_for_the_assistant

pytestmark = pytest.mark.processes
SCRIPT = """
import autoassist

with autoassist.Feed.local(range(64), run_dir="run", batch_size=8, epochs=1) as feed:
    for ids in feed:
        feed.skip()
"""


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_death_of_an_assistant_in_deterministic_mode_ends_the_run_with_an_error(tmp_path: Path) -> None:
    """Nobody else may score its windows: the Boss would wait for ever."""
    with (
        pytest.raises(RoleFailed, match=r"SIGKILL.*in deterministic mode the run cannot go on .*assistant-0\.log"),
        autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=1000, deterministic=True) as feed,
    ):
        wait_for_the_assistant(tmp_path)
        assert feed._roles is not None
        feed._roles.children[1].tell(signal.SIGKILL)
        train(feed)
    assert read_report(tmp_path).status == "failed"
    assert not psutil.Process().children()


def test_an_assistant_that_has_died_is_heard_of_by_a_feed_that_joins_once_more(tmp_path: Path) -> None:
    with (
        pytest.raises(RoleFailed, match="in deterministic mode the run cannot go on"),
        autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=1000, deterministic=True) as feed,
    ):
        assert feed._roles is not None
        feed._roles.children[1].tell(signal.SIGKILL)
        wait_until(lambda: feed._line._error is not None)
        feed.load_state_dict({})
        train(feed)


def test_an_assistant_that_dies_once_all_is_trained_is_no_failure_of_a_deterministic_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in an evaluation that the script does before it closes its feed."""
    with autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=1, deterministic=True) as feed:
        train(feed)
        assert feed._roles is not None
        feed._roles.children[1].tell(signal.SIGKILL)
        wait_until(lambda: "assistant-0 is gone" in caplog.text)
        assert feed.cut()
    assert read_report(tmp_path).status == "finished"


def test_the_death_of_the_broker_is_told_at_once_and_the_same_lines_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    def local(state: dict[str, Any]) -> autoassist.Feed:
        return autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=2, policy="uniform", state=state)

    state: dict[str, Any] = {}
    words = rf"broker .*SIGKILL.*run_dir='{tmp_path}', state=…\) goes on with it from a checkpoint .*/broker\.log"
    with pytest.raises(RoleFailed, match=words), local({}) as feed:
        for (x,) in feed.loader(DATA):
            feed.report(x)
            if feed.steps == 10:
                assert feed.cut()
                state = feed.state_dict()
                assert feed._roles is not None
                feed._roles.children[0].tell(signal.SIGKILL)
        train(feed)
    assert feed.steps < 75, "all was trained, the most of it off the plan"
    with local(state) as feed:
        assert feed.steps == 10
        train(feed)
    assert read_report(tmp_path).status == "finished"
    offered = [row["step"] for row in export(tmp_path, "batches") if row["step"] < feed.steps]
    assert sorted(offered) == list(range(feed.steps))
    assert not psutil.Process().children()


@pytest.mark.parametrize("is_known", [True, False])
def test_a_broker_that_is_killed_once_all_is_trained_is_not_waited_for(
    tmp_path: Path, is_known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody starts it again."""
    began = 0.0
    with autoassist.Feed.local(DATA, run_dir=tmp_path, batch_size=16, epochs=1, policy="uniform") as feed:
        train(feed)
        assert feed._roles is not None
        broker = feed._roles.children[0]
        broker.tell(signal.SIGSTOP)
        if is_known:
            broker.tell(signal.SIGKILL)
            wait_until(lambda: "broker was killed" in caplog.text)
        else:
            threading.Timer(1.0, broker.tell, [signal.SIGKILL]).start()
        began = time.monotonic()
    assert time.monotonic() - began < DEADLINE_S
    assert not psutil.Process().children()


def test_roles_import_nothing_from_the_project_in_which_the_script_is_called(tmp_path: Path) -> None:
    (tmp_path / "workloads").mkdir()
    (tmp_path / "workloads" / "__init__.py").write_text("")
    (tmp_path / "queue.py").write_text("raise RuntimeError('not the standard library')")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "train.py").write_text(SCRIPT)
    with roles() as start:
        script = start("scripts/train.py", program=(sys.executable,), cwd=tmp_path)
        assert script.end() == 0, script.text
    assert read_report(tmp_path / "run").status == "finished"
