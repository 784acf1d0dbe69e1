"""The examples run as they stand, alone and on several ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from protocol.report import read_report
from tests.faults.test_broker_outage import assert_nothing_lost_or_doubled
from tests.processes.roles import DEADLINE_S, roles, start_broker

pytestmark = pytest.mark.processes
EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
TORCHRUN = (str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2")


def run(*words: str, cwd: Path) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def trained(directory: Path, launcher: tuple[str, ...], *, batch_size: int) -> dict[str, torch.Tensor]:
    """The weights that the plain script has trained, all instances in each epoch."""
    with roles() as start:
        broker, address, _ = start_broker(start, directory / "run")
        words = ("--broker", address, "--policy", "uniform", "--epochs", "2", "--batch-size", str(batch_size))
        run(*launcher, str(EXAMPLES / "plain.py"), *words, "--save", str(directory / "net.pt"), cwd=directory)
        assert broker.end() == 0, broker.text
    assert_nothing_lost_or_doubled(directory / "run", 2)
    weights: dict[str, torch.Tensor] = torch.load(directory / "net.pt", weights_only=True)
    return weights


def test_two_ranks_train_what_one_rank_with_twice_the_batch_trains(tmp_path: Path) -> None:
    """The same instances in each step, and the same gradient, in a plain script under torchrun."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    alone = trained(one, (sys.executable,), batch_size=64)
    together = trained(two, TORCHRUN, batch_size=32)
    assert read_report(two / "run").boss.steps == read_report(one / "run").boss.steps
    for name, weights in alone.items():
        assert torch.allclose(weights, together[name], atol=1e-4), name


def test_the_plain_script_starts_its_own_roles_and_filters(tmp_path: Path) -> None:
    assert "last loss" in run(sys.executable, str(EXAMPLES / "plain.py"), cwd=tmp_path)
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert read_report(run_dir).selection.kept_fraction < 0.95


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_an_example_fits_on_a_screen(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 60
