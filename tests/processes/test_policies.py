"""Every policy through the real system: three processes, digits, a report; and one that there is not."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from autoassist.cli import main
from protocol.report import read_report
from tests.processes.roles import Role, export, roles, start_broker

pytestmark = pytest.mark.processes
DOCS = Path(__file__).resolve().parents[2] / "docs" / "POLICIES.md"
N = 1442
"""Instances of digits."""


def run(folder: Path, *words: str, epochs: int = 3, environment: dict[str, str] | None = None) -> Role:
    """A run of digits that may be filtered after the first epoch, and is, however slow the machine."""
    words = ("--epochs", str(epochs), "--anneal-share", "0", "--deterministic", "--no-live", *words)
    return Role("run", "digits", "--run-dir", str(folder), *words, environment=environment)


@pytest.mark.parametrize("name", ["autoassist-paper", "infobatch", "selective-backprop", "importance-gradient"])
def test_a_run_by_a_published_rule_keeps_less_and_learns(name: str, tmp_path: Path) -> None:
    done = run(tmp_path, "--policy", name, "--no-gate")
    assert done.end() == 0, done.text
    report = read_report(tmp_path)
    assert (report.status, report.policy) == ("finished", name)
    assert report.selection.epochs[0].kept_fraction == 1.0
    assert report.selection.epochs[-1].kept_fraction < 0.95
    assert report.metric.value is not None and report.metric.value > 0.8


def test_a_run_with_every_option_is_the_same_to_the_bit_when_it_is_done_again(tmp_path: Path) -> None:
    """Gate, unbiased weights, class floor and noise guard."""
    words = ("--policy", "importance", "--class-floor", "0.5", "--noise-guard", "on")
    for name in ("first", "second"):
        done = run(tmp_path / name, *words, epochs=4)
        assert done.end() == 0, done.text
    first, second = tmp_path / "first", tmp_path / "second"
    assert export(first) == export(second)
    assert export(first, "losses") == export(second, "losses")
    assert any(p < 1.0 for batch in export(first) for p in batch["keep_probabilities"])
    (assistant,) = read_report(first).assistants
    assert assistant.figures["lift"] > 0 and assistant.figures["set_aside"] >= 0  # type: ignore[operator]
    assert len(assistant.set_aside) == assistant.figures["set_aside"]


def test_a_run_by_irreducible_losses(tmp_path: Path) -> None:
    np.save(tmp_path / "irreducible.npy", np.random.default_rng(0).exponential(size=N).astype(np.float32))
    words = ("--policy", "rho", "--no-gate", "--irreducible-losses", str(tmp_path / "irreducible.npy"))
    done = run(tmp_path / "run", *words)
    assert done.end() == 0, done.text
    assert read_report(tmp_path / "run").selection.epochs[-1].kept_fraction < 0.95


def test_the_policy_that_the_documentation_shows_runs_once_its_package_is_installed(tmp_path: Path) -> None:
    """A module and a dist-info with the entry point is what pip leaves behind."""
    code, toml = re.findall(r"```(?:python|toml)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "my_package.py").write_text(code)
    installed = tmp_path / "my_package-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    ((group, entries),) = tomllib.loads(toml)["project"]["entry-points"].items()
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (installed / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    done = run(tmp_path / "run", "--policy", "newest", "--no-gate", environment={"PYTHONPATH": str(tmp_path)})
    assert done.end() == 0, done.text
    report = read_report(tmp_path / "run")
    assert report.policy == "newest" and report.selection.epochs[-1].kept_fraction < 0.95


@pytest.mark.parametrize(
    "words, says",
    [
        (("--policy", "rondom-drop"), "policy=rondom-drop: unknown policy; one of autoassist, autoassist-paper, "),
        (("--policy", "rho"), "irreducible_losses=: policy rho needs them; give --irreducible-losses FILE.npy"),
        (("--policy", "rho", "--irreducible-losses", "no.npy"), "irreducible_losses=no.npy: cannot be read"),
    ],
    ids=["unknown", "no losses", "no file"],
)
def test_the_launcher_refuses_what_no_assistant_could_do_and_makes_nothing(
    words: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, since nothing is launched."""
    assert main(["run", "digits", "--run-dir", str(tmp_path / "run"), *words]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_broker_takes_a_policy_that_it_does_not_know_and_an_assistant_refuses_it(tmp_path: Path) -> None:
    """The broker's host need not have the package that brings it; the Boss trains on, unfiltered."""
    with roles() as start:
        _, address, _ = start_broker(start, tmp_path)
        boss = start("boss", "digits", "--broker", address, "--policy", "not-here", "--epochs", "5000")
        boss.wait_for("epoch 0:")
        assistant = start("assistant", "digits", "--broker", address)
        assert assistant.end() == 2
        assert "policy=not-here: unknown policy; one of autoassist, " in assistant.text
        boss.terminate()
        assert boss.end() == 0, boss.text
    report = read_report(tmp_path)
    assert (report.policy, report.selection.kept_fraction) == ("not-here", 1.0)
