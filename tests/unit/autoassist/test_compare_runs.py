"""Running a plan, with made-up processes: what a failure and a signal leave behind, and how the time left is told."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from autoassist import compare_runs, remembered
from autoassist.children import Child
from autoassist.compare_found import Common, finished_before
from autoassist.compare_plan import PlannedRun, make_plan
from autoassist.compare_progress import Pace, ProgressView, duration_in_words
from autoassist.compare_runs import RunFailed, Runner, locked
from autoassist.notices import Notices
from autoassist.remembered import COMMAND_FILE, Remembered
from autoassist.run_command import RunCommand
from broker.store import DATABASE
from protocol.errors import SettingError
from protocol.report import REPORT_FILE, MetricReport, Report, encode_report, read_report
from protocol.signals import StopSignal
from tests.unit.autoassist.made_up import report_of

PLAN = make_plan(
    RunCommand(workload="digits"),
    n=500,
    epochs=4,
    policies=("uniform", "random-drop", "autoassist"),
    budgets=(1.0, 0.6),
    seeds=(1,),
    options=(),
)
COMMON = Common("mine:1", "test_accuracy")
BY_NAME = {run.name: run for run in PLAN}


class FakeChild(Child):
    """Ends at once, and leaves what a run of its name would."""

    started: list[str]
    ends: dict[str, tuple[int, str]]
    """Exit code and status by name; else 0 and finished."""
    on_start: Callable[[str], None]
    differs: dict[str, dict[str, Any]]
    """By name, what its report has differently."""
    _code: int | None = None

    def start(self, *, announce: bool = False) -> None:
        FakeChild.started.append(self.name)
        FakeChild.on_start(self.name)
        self._code, status = FakeChild.ends.get(self.name, (0, "finished"))
        self.said.append("error: the disk is full" if self._code else "fine")
        if status:
            run_dir = Path(self.arguments[self.arguments.index("--run-dir") + 1])
            leave(BY_NAME[self.name], run_dir, status, self.arguments)
            report = msgspec.structs.replace(read_report(run_dir), **FakeChild.differs.get(self.name, {}))
            (run_dir / REPORT_FILE).write_bytes(encode_report(report))

    @property
    def code(self) -> int | None:
        return self._code

    @property
    def is_running(self) -> bool:
        return False


def leave(run: PlannedRun, run_dir: Path, status: str, words: list[str]) -> None:
    run_dir.mkdir(parents=True)
    pair = report_of("autoassist", passes=run.passes, kept_fraction=0.8)
    command = run.paired(pair).command if "--drop-rate" in words else run.command
    (run_dir / COMMAND_FILE).write_bytes(Remembered.of(command).encoded())
    (run_dir / DATABASE).write_bytes(b"")
    kept = 1.0 if run.settings.policy == "uniform" else 0.8
    report = report_of(run.settings.policy, passes=run.passes, kept_fraction=kept, status=status, settings=command.run)
    (run_dir / REPORT_FILE).write_bytes(encode_report(report))


@pytest.fixture(autouse=True)
def fake_child(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeChild.started, FakeChild.ends, FakeChild.on_start = [], {}, lambda name: None
    FakeChild.differs = {}
    monkeypatch.setattr(compare_runs, "Child", FakeChild)


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    found = StopSignal()
    yield found
    found.close()


def runner(out: Path, stop: StopSignal, common: Common = COMMON, finished: Collection[str] = ()) -> Runner:
    view = ProgressView(PLAN, enabled=False)
    return Runner(PLAN, out, common, finished=finished, stop=stop, notices=Notices(), view=view)


def test_all_runs_are_run_in_order_and_never_again(tmp_path: Path, stop: StopSignal) -> None:
    first = runner(tmp_path, stop)
    assert first.execute()
    assert FakeChild.started == [run.name for run in PLAN] == list(first.reports)
    FakeChild.started = []
    second = runner(tmp_path, stop)
    assert second.execute()
    assert FakeChild.started == [] and second.reports == first.reports


def test_a_failed_run_ends_the_comparison_with_its_error_and_code_and_is_begun_again(
    tmp_path: Path, stop: StopSignal
) -> None:
    name = PLAN[1].name
    FakeChild.ends = {name: (2, "failed")}
    with pytest.raises(RunFailed, match=rf"^{name} ended with code 2: the disk is full .log: .*1 of 6 runs") as caught:
        runner(tmp_path, stop).execute()
    assert caught.value.exit_code == 2
    FakeChild.started, FakeChild.ends = [], {}
    assert runner(tmp_path, stop).execute()
    assert FakeChild.started == [run.name for run in PLAN[1:]]


def test_a_run_that_lost_its_assistant_is_set_aside_though_it_trained_to_the_end(
    tmp_path: Path, stop: StopSignal
) -> None:
    name = PLAN[1].name
    FakeChild.ends = {name: (1, "finished")}
    for _ in range(2):
        with pytest.raises(RunFailed, match=rf"^{name} ended with code 1"):
            runner(tmp_path, stop).execute()
        assert (tmp_path / f"{name}.failed" / REPORT_FILE).exists() and not (tmp_path / name).exists()


def test_a_run_on_other_data_than_was_planned_for_ends_the_comparison_and_is_set_aside(
    tmp_path: Path, stop: StopSignal
) -> None:
    """The user's file was changed, or a mirror came back, while the comparison ran."""
    name = PLAN[1].name
    FakeChild.differs = {name: {"dataset_id": "mine:2"}}
    with pytest.raises(RunFailed, match=rf"{name}: was trained on mine:2, the comparison is one of mine:1: that has"):
        runner(tmp_path, stop).execute()
    assert FakeChild.started == [PLAN[0].name, name]
    FakeChild.differs = {}
    assert runner(tmp_path, stop).execute()


def test_a_run_with_another_file_of_the_workload_than_planned_ends_the_comparison_and_is_set_aside(
    tmp_path: Path, stop: StopSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was edited while the comparison ran."""
    name = PLAN[1].name
    edit = {PLAN[0].name: lambda: None, name: lambda: monkeypatch.setattr(remembered, "code_of", lambda _: "3 other")}
    monkeypatch.setattr(remembered, "code_of", lambda _: "3 planned")
    FakeChild.on_start = lambda started: edit[started]()
    made = runner(tmp_path, stop, Common("mine:1", "test_accuracy", "3 planned"))
    with pytest.raises(RunFailed, match=rf"{name}: was trained with another file of the workload .*put it back"):
        made.execute()
    assert FakeChild.started == [PLAN[0].name, name] and (tmp_path / f"{name}.failed").exists()


def test_what_was_finished_before_counts_as_kept_wherever_it_stands_in_the_plan(
    tmp_path: Path, stop: StopSignal
) -> None:
    assert runner(tmp_path, stop).execute()
    shutil.rmtree(tmp_path / PLAN[0].name)
    finished = finished_before(PLAN, tmp_path, COMMON)
    FakeChild.ends = {PLAN[0].name: (1, "")}
    with pytest.raises(RunFailed, match="; 5 of 6 runs are finished and kept, the same command goes on from here"):
        runner(tmp_path, stop, finished=finished).execute()


def test_a_run_without_a_finite_metric_ends_the_comparison_at_once_and_not_after_all_others(
    tmp_path: Path, stop: StopSignal
) -> None:
    name = PLAN[0].name
    FakeChild.differs = {name: {"metric": MetricReport(name="test_accuracy", value=float("nan"), history=[])}}
    with pytest.raises(RunFailed, match=rf"{name}: test_accuracy is not finite .*0 of 6 runs are finished"):
        runner(tmp_path, stop).execute()
    assert FakeChild.started == [name] and (tmp_path / f"{name}.failed").exists()


def test_a_run_that_cannot_go_on_is_told_with_how_to_begin_it_again(tmp_path: Path, stop: StopSignal) -> None:
    leave(PLAN[0], tmp_path / PLAN[0].name, "stopped", [])
    FakeChild.ends = {PLAN[0].name: (1, "")}
    with pytest.raises(RunFailed, match=f"to begin this one again, remove {tmp_path / PLAN[0].name}$"):
        runner(tmp_path, stop).execute()


def test_a_run_that_was_killed_while_it_claimed_its_directory_begins_again(tmp_path: Path, stop: StopSignal) -> None:
    (tmp_path / PLAN[0].name).mkdir()
    (tmp_path / PLAN[0].name / COMMAND_FILE).touch()
    assert runner(tmp_path, stop).execute()


def test_runs_have_the_environment_that_the_comparison_gives_them(tmp_path: Path, stop: StopSignal) -> None:
    """Where a small set stands in for the data, it does so for all runs."""
    given = {"NAME": "value"}
    seen: list[dict[str, str]] = []

    class Seeing(FakeChild):
        def start(self, *, announce: bool = False) -> None:
            seen.append(self.environment)
            super().start(announce=announce)

    view = ProgressView(PLAN, enabled=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_runs, "Child", Seeing)
        made = Runner(PLAN, tmp_path, COMMON, stop=stop, notices=Notices(), view=view, environment=given)
        assert made.execute()
    assert seen == [given] * len(PLAN)


def test_a_killed_run_gives_the_code_that_a_shell_would(tmp_path: Path, stop: StopSignal) -> None:
    FakeChild.ends = {PLAN[0].name: (-signal.SIGKILL, "")}
    with pytest.raises(RunFailed, match=r"was killed by signal 9 \(SIGKILL\)") as caught:
        runner(tmp_path, stop).execute()
    assert caught.value.exit_code == 137


def test_a_signal_ends_it_after_the_current_run_which_goes_on_the_next_time(
    tmp_path: Path, stop: StopSignal, caplog: pytest.LogCaptureFixture
) -> None:
    name = PLAN[1].name
    FakeChild.ends = {name: (143, "stopped")}
    FakeChild.on_start = lambda started: setattr(stop, "requested", started == name)
    first = runner(tmp_path, stop)
    assert not first.execute()
    assert FakeChild.started == [PLAN[0].name, name] and list(first.reports) == [PLAN[0].name]
    run = PLAN[1]
    assert compare_runs.look(run, tmp_path / name, COMMON).can_resume
    stop.requested, FakeChild.ends, FakeChild.on_start = False, {name: (1, "")}, lambda started: None
    with caplog.at_level("INFO"), pytest.raises(RunFailed):
        runner(tmp_path, stop).execute()
    assert f"run 2 of 6 goes on: {run.words}; about" in caplog.text


def test_a_run_that_had_finished_when_the_signal_came_counts(tmp_path: Path, stop: StopSignal) -> None:
    FakeChild.on_start = lambda started: setattr(stop, "requested", True)
    first = runner(tmp_path, stop)
    assert not first.execute()
    assert list(first.reports) == [PLAN[0].name]


class StubbornChild(FakeChild):
    """Ends when it is told to for the second time; the user presses Ctrl-C again when the first did not help."""

    told: list[int]
    stop: StopSignal

    @property
    def is_running(self) -> bool:
        return len(StubbornChild.told) < 2

    def tell(self, number: signal.Signals) -> None:
        StubbornChild.told.append(number)
        press_ctrl_c(StubbornChild.stop)


def press_ctrl_c(stop: StopSignal) -> None:
    stop._handle(signal.SIGINT, None)


def test_every_ctrl_c_is_handed_on_to_the_current_run(
    tmp_path: Path, stop: StopSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first lets it end in order, the second makes it end at once."""
    StubbornChild.told, StubbornChild.stop = [], stop
    monkeypatch.setattr(compare_runs, "Child", StubbornChild)
    FakeChild.ends = {PLAN[0].name: (130, "stopped")}
    FakeChild.on_start = lambda name: press_ctrl_c(stop)
    assert not runner(tmp_path, stop).execute()
    assert StubbornChild.told == [signal.SIGTERM, signal.SIGTERM]


def test_a_directory_serves_one_comparison_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "out"),
        pytest.raises(SettingError, match="another comparison uses it"),
        locked(tmp_path / "out"),
    ):
        pass
    with locked(tmp_path / "out"):
        pass


# Time left


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_told_from_the_runs_so_far() -> None:
    """Ten seconds of overhead for each run, and the wall time by its passes."""
    clock = Clock()
    view = ProgressView(PLAN, enabled=False, clock=clock)
    view.began(PLAN[0], passes_before=None)
    assert view.time_left() == "time left is known after the first run"
    clock.now = 30.0
    view.finished(PLAN[0], report_of("uniform", passes=2000), ran=True)
    passes = sum(run.passes for run in PLAN[1:])
    assert view.time_left() == f"about {duration_in_words(5 * 10 + passes / 100)} left" == "about 2 min left"
    view.began(PLAN[1], passes_before=None)
    clock.now += 29.0
    assert view.time_left() == f"about {duration_in_words(5 * 10 + passes / 100 - 29)} left"
    clock.now += 1000.0
    assert view.time_left() == f"about {duration_in_words(5 * 10 + passes / 100 - 30)} left"


def test_what_an_earlier_call_has_finished_tells_the_pace_too() -> None:
    pace = Pace()
    assert pace.expected_s(100) is None
    pace.add(report_of("uniform", passes=2000), None)
    assert pace.expected_s(1000) == pytest.approx(2.0 + 10.0)


def test_once_this_call_has_timed_a_run_those_of_an_earlier_one_no_longer_tell_the_pace() -> None:
    """It ran on a machine that was half as fast, and nothing is known of how long its runs took to start."""
    pace = Pace()
    pace.add(report_of("uniform", passes=2000), None)
    fast = report_of("uniform", passes=2000)
    fast.boss.wall_s /= 2
    pace.add(fast, 15.0)
    assert pace.expected_s(1000) == pytest.approx(5.0 + 5.0)


def test_runs_that_are_finished_are_none_of_the_time_left_wherever_the_plan_has_them() -> None:
    """A policy was added to a comparison that was over: what it had lies between the new runs."""
    finished = {run.name: report_of("uniform", passes=2000) for run in PLAN if run.settings.policy != "autoassist"}
    view = ProgressView(PLAN, enabled=False, finished=finished)
    passes = sum(run.passes for run in PLAN if run.name not in finished)
    expected = f"about {duration_in_words(2 * 2.0 + passes / 100)} left"
    assert len(finished) == 4 and view.time_left() == expected
    view.finished(PLAN[0], report_of("uniform", passes=10), ran=False)
    assert view.time_left() == expected


def test_a_run_that_goes_on_has_its_passes_behind_it_and_tells_no_more_of_the_pace_than_its_boss() -> None:
    """Its first 1500 of 2000 passes were another call's, and only the rest is timed here."""
    clock = Clock()
    earlier = {PLAN[0].name: report_of("uniform", passes=2000)}
    view = ProgressView(PLAN[:2], enabled=False, finished=earlier, clock=clock)
    view.began(PLAN[1], passes_before=1500)
    assert view.time_left() == "about 7 s left" and view._share_of_current() == pytest.approx(15 / 22)
    clock.now = 6.0
    view.finished(PLAN[1], report_of("uniform", passes=2000), ran=True)
    assert view._pace.expected_s(1000) == pytest.approx(2.0 + 10.0)


@pytest.mark.parametrize("seconds, words", [(0, "0 s"), (59, "59 s"), (90, "2 min"), (7500, "2 h 5 min")])
def test_durations_are_told_in_words(seconds: float, words: str) -> None:
    assert duration_in_words(seconds) == words


def test_the_bar_is_drawn_without_a_run_and_with_one(capsys: Any) -> None:
    clock = Clock()
    with ProgressView(PLAN, enabled=True, clock=clock) as view:
        view.tick()
        view.began(PLAN[0], passes_before=0)
        view.finished(PLAN[0], made_report(), ran=True)
        view.began(PLAN[1], passes_before=None)
        clock.now = 5.0
        view.tick()
        assert 1.0 < view._share_of_current() + 1.0 <= 1.95
    capsys.readouterr()


def made_report() -> Report:
    return report_of("uniform", passes=2000)
