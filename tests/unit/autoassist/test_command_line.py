"""The command line is made from the settings, and every setting is documented."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import torch
import tyro

from assistant.policies import Uniform, registry
from autoassist.boss_command import BossCommand
from autoassist.cli import main
from autoassist.remembered import Remembered
from autoassist.roles import AssistantCommand, LogSettings
from autoassist.run_command import RunCommand, as_words
from boss.snapshots import SnapshotSettings
from boss.train import TrainSettings
from protocol.cores import ASIDE_VARIABLE
from protocol.errors import SettingError
from protocol.exporter import ExporterSettings
from protocol.settings import RunSettings

ROOT = Path(__file__).resolve().parents[3]
SETTINGS_FILES = [
    *("protocol/settings.py", "protocol/client.py", "protocol/session.py", "broker/settings.py", "assistant/worker.py"),
    *("boss/train.py", "boss/line.py", "boss/checkpoint.py", "autoassist/launcher.py", "autoassist/roles.py"),
    *("protocol/exporter.py", "autoassist/curves.py", "boss/snapshots.py"),
]


def settings_classes(path: Path) -> list[ast.ClassDef]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Settings", "Times"))
    ]


@pytest.mark.parametrize("name", SETTINGS_FILES)
def test_every_setting_has_a_docstring(name: str) -> None:
    classes = settings_classes(ROOT / name)
    assert classes
    for cls in classes:
        for node, after in zip(cls.body, [*cls.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert documented, f"{cls.name}.{node.target.id}"


def test_an_assistant_cannot_look_ahead_without_a_workload() -> None:
    command = tyro.cli(AssistantCommand, args=["--snapshots", "snapshot.pt"])
    with pytest.raises(SettingError, match=r"snapshots=snapshot.pt: needs a WORKLOAD"):
        command._of_files()


def test_words_carry_every_setting_that_is_not_at_its_default() -> None:
    settings = RunSettings(policy="random-drop", epochs=7, deterministic=True, staleness_bound=500)
    assert as_words(settings, RunSettings()) == [
        *("--policy", "random-drop", "--epochs", "7", "--staleness-bound", "500", "--deterministic"),
    ]
    assert as_words(TrainSettings(), TrainSettings()) == []


def test_the_launcher_gives_each_role_what_it_needs() -> None:
    command = RunCommand(workload="digits", run=RunSettings(assistants=2, seed=5))
    roles = command._role_arguments("tcp://127.0.0.1:1", Path("runs/x"))
    assert list(roles) == ["assistant-0", "assistant-1", "boss-0"]
    assert "--seed" in roles["boss-0"] and "--seed" not in roles["assistant-0"]


def test_the_launcher_hands_port_log_and_curves_on_to_whom_they_concern() -> None:
    command = RunCommand(
        workload="digits",
        monitor=ExporterSettings(http_port=9155),
        log=LogSettings(log_json=True, log_level="warning"),
        tensorboard=True,
    )
    log = ["--log-level", "warning", "--log-json"]
    broker = command._broker_arguments(Path("runs/x"))
    roles = command._role_arguments("tcp://127.0.0.1:1", Path("runs/x"))
    assert broker[-5:] == ["--http-port", "9155", *log] and "--tensorboard" not in broker
    for words in roles.values():
        text = " ".join(words)
        assert " ".join(log) in text and "--tensorboard runs/x/tensorboard" in text and "--http-port" not in text


AHEAD = ["--snapshots", "runs/x/snapshot.pt"]


def test_the_boss_leaves_snapshots_where_the_assistants_look_for_them() -> None:
    command = RunCommand(workload="digits", run=RunSettings(assistants=2), look_ahead="on")
    roles = command._role_arguments("tcp://host:1", Path("runs/x"))
    for words in roles.values():
        assert words[-2:] == AHEAD
    boss = tyro.cli(BossCommand, args=roles["boss-0"][1:])
    assistant = tyro.cli(AssistantCommand, args=roles["assistant-1"][1:])
    assert boss.snapshots == SnapshotSettings(snapshots=Path("runs/x/snapshot.pt"))
    assert assistant.assistant.snapshots == Path("runs/x/snapshot.pt")


WITHOUT: dict[str, RunCommand] = {
    "it is told not to": RunCommand(workload="digits", look_ahead="off"),
    "another policy": RunCommand(workload="digits", run=RunSettings(policy="infobatch"), look_ahead="on"),
    "deterministic": RunCommand(workload="digits", run=RunSettings(deterministic=True), look_ahead="on"),
}


@pytest.mark.parametrize("command", WITHOUT.values(), ids=WITHOUT.keys())
def test_nobody_looks_ahead_where(command: RunCommand) -> None:
    for words in command._role_arguments("tcp://host:1", Path("runs/x")).values():
        assert "--snapshots" not in words


def test_assistants_of_a_policy_of_ones_own_look_ahead_where_it_takes_what_they_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mine(Uniform):
        takes_fresh_losses = True

    monkeypatch.setitem(registry.BUILT_IN, "mine", Mine)
    command = RunCommand(workload="digits", run=RunSettings(policy="mine"), look_ahead="on")
    for words in command._role_arguments("tcp://host:1", Path("runs/x")).values():
        assert words[-2:] == AHEAD


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 3), (8, 6), (16, 14)])
def test_a_boss_on_the_cpu_leaves_a_core_to_those_who_look_ahead_where_there_are_enough(
    cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoassist.run_command.usable_cores", lambda: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert RunCommand(workload="digits", look_ahead="on")._shared_train_settings().threads == threads
    plain = RunCommand(workload="digits", look_ahead="off")._shared_train_settings().threads
    assert plain == max(1, cores - 1)


@pytest.mark.parametrize(
    ("cores", "device", "looks"), [(1, "cpu", False), (2, "cpu", True), (8, "cpu", True), (8, "cuda", False)]
)
def test_of_itself_a_run_looks_ahead_where_the_boss_trains_on_a_cpu_of_several_cores(
    cores: int, device: str, looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoassist.remembered.usable_cores", lambda: cores)
    monkeypatch.setattr(TrainSettings, "resolved_device", lambda self: torch.device(device))
    assert Remembered.of(RunCommand(workload="digits")).looks_ahead == looks
    assert Remembered.of(RunCommand(workload="digits", look_ahead="on")).looks_ahead
    assert not Remembered.of(RunCommand(workload="digits", run=RunSettings(policy="uniform"))).looks_ahead
    assert not Remembered.of(RunCommand(workload="digits", train=TrainSettings(threads=cores))).looks_ahead
    assert not Remembered.of(RunCommand(workload="digits", run=RunSettings(world_size=cores))).looks_ahead
    assert not Remembered.of(RunCommand(workload="digits", run=RunSettings(assistants=cores))).looks_ahead


@pytest.mark.parametrize(
    ("cores", "train", "run", "aside"),
    [
        (2, TrainSettings(), RunSettings(), 1),
        (8, TrainSettings(), RunSettings(), 2),
        (8, TrainSettings(threads=3), RunSettings(world_size=2), 2),
        (8, TrainSettings(threads=4), RunSettings(assistants=4), 4),
    ],
)
def test_all_but_the_training_keeps_to_the_cores_that_a_boss_on_the_cpu_leaves_free(
    cores: int, train: TrainSettings, run: RunSettings, aside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("run_command", "remembered"):
        monkeypatch.setattr(f"autoassist.{module}.usable_cores", lambda: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("autoassist.run_command.as_aside", lambda count: {"aside": str(count)})
    assert RunCommand(workload="digits", train=train, run=run)._aside() == {"aside": str(aside)}


@pytest.mark.parametrize(
    ("cores", "train", "run"),
    [
        (1, TrainSettings(), RunSettings()),
        (2, TrainSettings(), RunSettings(world_size=2)),
        (8, TrainSettings(threads=8), RunSettings()),
        (8, TrainSettings(), RunSettings(assistants=3)),
        (8, TrainSettings(), RunSettings(policy="uniform")),
    ],
    ids=["one core", "a rank on each", "a thread on each", "no room for all Assistants", "nobody looks ahead"],
)
def test_all_go_where_they_like_where_keeping_aside_would_be_of_no_use(
    cores: int, train: TrainSettings, run: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("run_command", "remembered"):
        monkeypatch.setattr(f"autoassist.{module}.usable_cores", lambda: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("protocol.cores.os.sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.delenv(ASIDE_VARIABLE, raising=False)
    assert RunCommand(workload="digits", train=train, run=run)._aside() == {}


def test_beside_an_accelerator_all_keep_to_whatever_core_they_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainSettings, "resolved_device", lambda self: torch.device("cuda"))
    assert RunCommand(workload="digits")._aside() == {}


def test_uniform_needs_no_assistant() -> None:
    roles = RunCommand(workload="digits", run=RunSettings(policy="uniform"))._role_arguments(
        "tcp://127.0.0.1:1", Path("runs/x")
    )
    assert list(roles) == ["boss-0"]


def test_a_changed_setting_can_be_said_back_for_every_field() -> None:
    """Whatever type a field has, the launcher can hand it to a role."""
    changed = {
        **{"policy": "uniform", "epochs": 2, "batch_size": 8, "world_size": 2, "seed": 9, "window_size": 64},
        **{"prefetch_batches": 3, "stock_batches": 2, "staleness_bound": 77, "patience_s": 0.5, "lease_s": 1.5},
        **{"floor": 0.2, "drop_rate": 0.25, "deterministic": True, "assistants": 3, "gate": False},
        **{"warmup_epochs": 2, "anneal_share": 0.25, "power": 2.0, "irreducible_losses": "my losses.npy"},
        **{
            "max_tokens": 512,
            "pool_steps": 8,
            "weights": "on",
            "weight_clip": 3.0,
            "class_floor": 0.5,
            "noise_guard": "auto",
        },
    }
    settings = RunSettings(**changed)
    names = {f.name for f in dataclasses.fields(RunSettings)} - {"boss_instances"}
    assert set(changed) == names
    assert tyro.cli(RunSettings, args=as_words(settings, RunSettings())) == settings


@pytest.mark.parametrize("words, code", [(["--help"], 0), ([], 2), (["--version"], 0), (["nonsense"], 2)])
def test_the_top_level_answers(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == code
    assert capsys.readouterr() != ("", "")
