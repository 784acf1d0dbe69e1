"""What ``Feed.local`` refuses before it starts anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import autoassist
from autoassist.children import Child
from autoassist.local_feed import LocalRoles, _run_and_assistants
from boss.clocks import Clocks
from boss.figures import state_of
from boss.plan import BossPlan
from broker.effects import Put
from broker.rows import RunRow
from broker.store import RunStore
from protocol.errors import RoleFailed, SettingError
from protocol.settings import RunSettings

N = 8
RUN = RunSettings(batch_size=2)


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: LocalRoles) -> str:
        raise AssertionError("the broker was started")

    monkeypatch.setattr(LocalRoles, "start_broker", start)


def local(dataset: Any = range(N), **given: Any) -> None:
    """What must not come so far as to start anything."""
    autoassist.Feed.local(dataset, **given)


def state_of_run(run_id: str) -> dict[str, Any]:
    return state_of(Clocks(), BossPlan(0, RUN, N), instances=0, dropped=0, run_id=run_id)


class Stream(torch.utils.data.IterableDataset[int]):
    """Without a length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(N))


@pytest.mark.parametrize("count, settings", [(0, None), (1, RunSettings(deterministic=True, assistants=2))])
def test_in_deterministic_mode_another_number_of_assistants_than_the_run_waits_for_is_refused(
    count: int, settings: RunSettings | None, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"settings": settings} if settings else {"deterministic": True}
    with pytest.raises(SettingError, match=f"assistants={count}: in deterministic mode the run waits"):
        local(run_dir=tmp_path / "run", assistants=count, **given)
    assert not (tmp_path / "run").exists()


def test_so_many_assistants_are_started_as_the_settings_say_where_nothing_else_does() -> None:
    settings = RunSettings(deterministic=True, assistants=2)
    assert _run_and_assistants(settings, {}, None) == (settings, 2)
    assert _run_and_assistants(None, {"deterministic": True}, 3)[0].assistants == 3
    assert _run_and_assistants(None, {}, None)[1] == 1
    assert _run_and_assistants(None, {"deterministic": True, "policy": "uniform"}, 0)[1] == 0


def test_settings_given_twice_are_refused() -> None:
    with pytest.raises(SettingError, match="batch_size=50: given beside settings="):
        local(settings=RUN, batch_size=50)


def test_an_argument_that_there_is_not_is_told_of_the_function_that_was_called() -> None:
    with pytest.raises(SettingError, match=r"Feed\.local: has no argument foo"):
        local(foo=1)


def test_a_data_set_without_a_length_is_refused() -> None:
    with pytest.raises(SettingError, match="dataset=Stream: has no length; give a map-style data set"):
        local(Stream(), batch_size=2)


def test_a_data_set_of_no_instances_is_refused() -> None:
    with pytest.raises(SettingError, match="dataset=a list of no instances"):
        local([], batch_size=2)


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/foo"])
def test_a_run_directory_that_cannot_be_made_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match=rf"run_dir={tmp_path / place}: .*that can be written"):
        local(run_dir=tmp_path / place, batch_size=2)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("given", [None, "nothing here"])
def test_a_state_without_the_directory_of_its_run_is_refused(
    tmp_path: Path, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the script is started in another working directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=f"run_dir={given}: holds no run"):
        local(run_dir=given, batch_size=2, state=state_of_run("mine"))
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_another_run_than_the_directory_holds_is_refused_at_once(tmp_path: Path) -> None:
    with closing(RunStore(tmp_path)) as store:
        store.commit([Put("run", "run", RunRow(run_id="theirs", settings=RUN, dataset_id="dataset", n=N))])
    with pytest.raises(SettingError, match=f"run_dir={tmp_path}: holds run theirs, and state is of run mine"):
        local(run_dir=tmp_path, batch_size=2, state=state_of_run("mine"))
    with pytest.raises(AssertionError, match="the broker was started"):
        local(run_dir=tmp_path, batch_size=2, state=state_of_run("theirs"))


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="not a feed's state_dict"):
        local(run_dir=tmp_path / "run", batch_size=2, state={"net": {}})
    assert not (tmp_path / "run").exists()


def test_a_broker_that_says_something_else_than_its_address_is_told_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()

    def start(self: LocalRoles, name: str, arguments: list[str], **_: Any) -> Child:
        child = Child(name, arguments, tmp_path / "broker.log", lambda *_: None, lambda: None)
        child.announcement = "welcome to this host\n"
        return child

    monkeypatch.setattr(LocalRoles, "_start", start)
    with pytest.raises(RoleFailed, match="the broker says 'welcome to this host' where its address should be"):
        LocalRoles(tmp_path).start_broker()
