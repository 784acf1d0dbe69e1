"""The directory of a run: one run only, what it was begun with, and nothing left of a launch that came to nothing."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from autoassist import run_directory
from autoassist.remembered import (
    COMMAND_FILE,
    DEFAULT_CHECKPOINT_EVERY,
    WEIGHTS_FILE,
    LookAheadChoice,
    Remembered,
    require_unfinished,
)
from autoassist.roles import WorkloadSettings
from autoassist.run_command import RunCommand
from autoassist.run_directory import RunDirectory, names_for, new_folder, require_unused
from boss.train import TrainSettings
from protocol.errors import DataError, SettingError
from protocol.report import Report, encode_report
from protocol.settings import RunSettings
from tests.unit.autoassist.test_views import REPORT


def begun(**changed: object) -> Remembered:
    """What a run was begun with, or what was typed beside --resume."""
    plain = {"workload": "", "run": RunSettings(), "train": TrainSettings(), "data": WorkloadSettings()}
    options = {"checkpoint_every": DEFAULT_CHECKPOINT_EVERY, "look_ahead": "auto"}
    return Remembered(**{**plain, **options, **changed})  # type: ignore[arg-type]


def test_what_a_run_was_begun_with_is_read_back(tmp_path: Path) -> None:
    began = begun(workload="digits", run=RunSettings(epochs=7), data=WorkloadSettings(data_dir=tmp_path / "x"))
    RunDirectory(tmp_path / "run", began)
    assert Remembered.read(tmp_path / "run") == began


def test_a_run_is_resumed_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are remembered by their full path."""
    monkeypatch.chdir(tmp_path)
    began = Remembered.of(begun(workload="my/task.py:Mine", data=WorkloadSettings(data_dir=Path("data"))))
    assert began.workload == f"{tmp_path}/my/task.py:Mine"
    assert began.data.data_dir == tmp_path / "data"
    assert Remembered.of(begun(workload="package.module:Mine")).workload == "package.module:Mine"


def test_a_command_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / COMMAND_FILE).write_text("{")
    with pytest.raises(DataError, match=rf"{COMMAND_FILE}.*autoassist run"):
        Remembered.read(tmp_path)


CONTRADICTIONS = {
    "epochs": ({"run": RunSettings(epochs=9)}, "--epochs 9", "--epochs 5"),
    "the other budget": ({"run": RunSettings(boss_instances=9)}, "--boss-instances 9", "--boss-instances None"),
    "policy": ({"run": RunSettings(policy="uniform")}, "--policy uniform", "--policy random-drop"),
    "seed": ({"run": RunSettings(seed=8)}, "--seed 8", "--seed 3"),
    "a switch": ({"run": RunSettings(deterministic=True)}, "--deterministic True", "--deterministic False"),
    "workload": ({"workload": "mnist"}, "WORKLOAD mnist", "WORKLOAD digits"),
    "threads": ({"train": TrainSettings(threads=7)}, "--threads 7", "--threads 0"),
    "model": ({"data": WorkloadSettings(model="cnn")}, "--model cnn", "--model resnet8"),
    "checkpoints": ({"checkpoint_every": 7}, "--checkpoint-every 7", "--checkpoint-every 50"),
    "looking ahead": ({"look_ahead": "on"}, "--look-ahead on", "--look-ahead auto"),
}


def before_looking_ahead(place: Path, switch: bool | None = None) -> Path:
    """A run that was begun before there was the option, or when it was a switch."""
    RunDirectory(place, begun(workload="digits"))
    content = json.loads((place / COMMAND_FILE).read_text())
    del content["look_ahead"]
    content |= {} if switch is None else {"look_ahead": switch}
    (place / COMMAND_FILE).write_text(json.dumps(content))
    return place


def test_a_run_that_was_begun_before_there_was_looking_ahead_goes_on_without_it(tmp_path: Path) -> None:
    place = before_looking_ahead(tmp_path / "run")
    resumed = RunCommand(resume=place)._resumed(place)
    assert resumed.look_ahead == "off" and not Remembered.of(resumed).looks_ahead
    assert "--snapshots" not in " ".join(resumed._role_arguments("tcp://host:1", place)["boss-0"])
    RunCommand(resume=place, look_ahead="off")._resumed(place)  # may be said


@pytest.mark.parametrize("switch", [True, False])
def test_a_run_that_was_begun_when_looking_ahead_was_a_switch_goes_on_so(tmp_path: Path, switch: bool) -> None:
    place = before_looking_ahead(tmp_path / "run", switch)
    assert Remembered.read(place).looks_ahead == switch


@pytest.mark.parametrize("cores", [1, 2])
def test_a_run_that_was_begun_of_itself_goes_on_so_on_another_machine(
    tmp_path: Path, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("autoassist.remembered.usable_cores", lambda: cores)
    place = tmp_path / "run"
    RunDirectory(place, begun(workload="digits").settled())
    monkeypatch.setattr("autoassist.remembered.usable_cores", lambda: 3 - cores)
    assert Remembered.of(RunCommand(resume=place)._resumed(place)).looks_ahead == (cores > 1)


@pytest.mark.parametrize("look_ahead", ["on", "off"])
def test_a_run_goes_on_looking_ahead_as_it_was_begun(tmp_path: Path, look_ahead: LookAheadChoice) -> None:
    place = tmp_path / "run"
    RunDirectory(place, begun(workload="digits", look_ahead=look_ahead))
    resumed = RunCommand(resume=place)._resumed(place)
    assert resumed.look_ahead == look_ahead
    for words in resumed._role_arguments("tcp://host:1", place).values():
        assert ("--snapshots" in words) == (look_ahead == "on")


@pytest.mark.parametrize("typed, mine, theirs", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_an_option_that_a_resumed_run_would_ignore_is_refused(typed: dict[str, object], mine: str, theirs: str) -> None:
    run = RunSettings(epochs=5, policy="random-drop", seed=3)
    began = begun(workload="digits", run=run, data=WorkloadSettings(model="resnet8"), checkpoint_every=50)
    with pytest.raises(SettingError) as refused:
        began.require_agreement(begun(**typed), Path("runs/x"))
    assert str(refused.value).startswith(f"{mine}: the run in runs/x was begun with {theirs} ")
    assert "--resume" in str(refused.value)


def test_options_that_the_run_was_begun_with_may_be_said_again() -> None:
    began = begun(workload="digits", run=RunSettings(epochs=5, seed=3), checkpoint_every=50)
    began.require_agreement(began, Path("runs/x"))
    began.require_agreement(begun(), Path("runs/x"))
    began.require_agreement(begun(run=RunSettings(seed=3)), Path("runs/x"))


def test_the_epochs_of_a_run_that_named_none_are_three() -> None:
    began = begun(workload="digits")
    began.require_agreement(begun(run=RunSettings(epochs=3)), Path("runs/x"))
    with pytest.raises(SettingError, match=r"--epochs 4: .* --epochs 3 "):
        began.require_agreement(begun(run=RunSettings(epochs=4)), Path("runs/x"))


@pytest.mark.parametrize(
    ("name", "remedy"), [(COMMAND_FILE, "--resume "), ("run.sqlite", "state=.*--resume --run-dir ")]
)
def test_a_directory_with_a_run_is_refused_and_left_alone(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / name).write_text("x")
    for refuse in (lambda: require_unused(tmp_path), lambda: RunDirectory(tmp_path, begun())):
        with pytest.raises(SettingError, match=rf"run_dir={tmp_path}: .*{remedy}{tmp_path}.*another --run-dir"):
            refuse()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "x"


def test_a_launch_that_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    place = RunDirectory(tmp_path / "runs" / "mine", begun())
    (place.path / "run.sqlite").write_text("x")
    (place.path / "logs" / "broker.log").write_text("x")
    place.withdraw()
    assert not (tmp_path / "runs").exists() and tmp_path.exists()


def test_what_was_in_the_directory_before_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "data").mkdir()
    place = RunDirectory(tmp_path, begun())
    (place.path / "checkpoints").mkdir()
    place.withdraw()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "notes.txt"]


def test_what_has_come_into_the_directory_from_elsewhere_stays_too(tmp_path: Path) -> None:
    place = RunDirectory(tmp_path, begun())
    (tmp_path / "another run").mkdir()
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "run.sqlite-wal").touch()
    place.withdraw()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another run", "thesis.tex"]


def test_a_file_as_run_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(SettingError, match=rf"run_dir={path}: .*--run-dir that can be written"):
            RunDirectory(path, begun())
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_directory_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where root may write anything, and a read-only file system is not at hand."""

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SettingError, match=r"Read-only file system; give a --run-dir"):
        RunDirectory(tmp_path / "run", begun())
    assert not (tmp_path / "run").exists()


def test_runs_that_begin_in_one_second_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "now")
    assert next(names_for("digits")) == Path("runs/digits-now")
    Path("runs/digits-now").mkdir(parents=True)
    assert next(names_for("digits")) == Path("runs/digits-now-2")


def test_of_runs_that_see_the_same_free_name_each_gets_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a sweep that starts all its runs at once: the other one claims it in between."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "now")
    free = list(islice(names_for("digits"), 3))
    monkeypatch.setattr(run_directory, "names_for", lambda _: iter(free))
    made = [RunDirectory.new("digits", begun()).path, RunDirectory.new("digits", begun()).path, new_folder("digits")]
    assert made == free


def test_only_a_finished_run_with_its_weights_cannot_be_resumed(tmp_path: Path) -> None:
    report = msgspec.convert(REPORT, Report)
    (tmp_path / "report.json").write_bytes(encode_report(report))
    require_unfinished(tmp_path)  # killed while it saved its weights
    (tmp_path / WEIGHTS_FILE).write_text("x")
    with pytest.raises(SettingError, match=r"the run is finished, see .*report\.json"):
        require_unfinished(tmp_path)
    for status in ("stopped", "failed", "running"):
        (tmp_path / "report.json").write_bytes(encode_report(msgspec.structs.replace(report, status=status)))
        require_unfinished(tmp_path)
    (tmp_path / "report.json").write_text("torn")
    require_unfinished(tmp_path)
