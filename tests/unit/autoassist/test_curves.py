"""Curves for TensorBoard: what a role says of itself, read back from the event file."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from autoassist import curves as curves_module
from autoassist.cli import main
from autoassist.curves import Curves, CurveSettings, drawing, of_assistant, of_boss
from protocol.errors import SettingError
from protocol.role_statistics import AssistantStatistics, BossStatistics

DEADLINE_S = 60.0


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves by name, as TensorBoard itself reads them."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(point.step, round(float(make_ndarray(point.tensor_proto)), 6)) for point in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def boss(steps: int, **changes: object) -> BossStatistics:
    usual = {"loss": 0.5, "evaluation": 0.875, "keep_probability": 0.75, "wall_s": 100.0, "exposed_wait_s": 2.0}
    return BossStatistics(steps=steps, instances=64 * steps, staleness_steps=12, **{**usual, **changes})  # type: ignore[arg-type]


def test_a_boss_draws_loss_metric_wait_and_staleness_against_step_and_passes(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "boss-0")
    for steps in (10, 20):
        curves.write(of_boss(boss(steps, loss=1.0 / steps)))
    curves.close()
    found = read(tmp_path / "boss-0")
    assert found["by step/loss"] == [(10, 0.1), (20, 0.05)] and found["by passes/loss"] == [(640, 0.1), (1280, 0.05)]
    assert found["by step/exposed wait, share"] == [(10, 0.02), (20, 0.02)]
    assert found["by passes/evaluation"][-1] == (1280, 0.875) and found["by step/staleness, steps"][-1] == (20, 12.0)
    assert found["by step/mean π"][-1] == (20, 0.75)


def test_an_assistant_draws_lift_and_what_it_keeps_against_the_step_that_it_knows(tmp_path: Path) -> None:
    now = AssistantStatistics(learned_through=41, lift=0.5, lift_error=0.125, instances_scored=80, instances_kept=60)
    curves = Curves(tmp_path / "assistant-0")
    curves.write(of_assistant(now))
    curves.close()
    found = read(tmp_path / "assistant-0")
    assert found["by step/lift"] == [(41, 0.5)] and found["by step/lift less three errors"] == [(41, 0.125)]
    assert found["by step/kept, share"] == [(41, 0.75)]


def test_what_is_not_known_or_stands_still_is_no_point(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "boss-0")
    for _ in range(3):
        curves.write(of_boss(boss(10, loss=float("nan"), evaluation=None)))
    curves.close()
    found = read(tmp_path / "boss-0")
    assert "by step/loss" not in found and "by step/evaluation" not in found
    assert found["by step/mean π"] == [(10, 0.75)]


def test_curves_are_drawn_off_the_roles_thread_and_whole_at_its_end(tmp_path: Path) -> None:
    """However short the run was: the last look comes after it."""
    lookers: set[str] = set()

    def look() -> BossStatistics:
        lookers.add(threading.current_thread().name)
        return boss(7)

    before = threading.active_count()
    with drawing(CurveSettings(tensorboard=tmp_path), "boss-0", look, of_boss):
        assert threading.active_count() > before
    assert threading.active_count() == before and lookers == {"curves"}
    assert read(tmp_path / "boss-0")["by step/loss"] == [(7, 0.5)]


def test_a_disk_that_fails_ends_the_curves_and_not_the_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Curves, points: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Curves, "write", full)
    before = threading.active_count()
    with drawing(CurveSettings(tensorboard=tmp_path), "boss-0", lambda: boss(7), of_boss):
        pass
    assert threading.active_count() == before
    assert "no more curves for TensorBoard" in caplog.text and "No space left" in caplog.text


def test_nothing_is_drawn_unless_asked_for(tmp_path: Path) -> None:
    before = threading.active_count()
    with drawing(CurveSettings(), "boss-0", lambda: boss(7), of_boss):
        assert threading.active_count() == before


def test_without_tensorboard_the_option_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(curves_module, "can_draw", lambda: False)
    assert main(["run", "digits", "--tensorboard", "--run-dir", str(tmp_path / "run")]) == 2
    assert "pip install 'autoassist[tensorboard]'" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"tensorboard=.*file/boss-0: Not a directory"):
        Curves(tmp_path / "file" / "boss-0")
