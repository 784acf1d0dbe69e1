"""The examples run as they stand, alone and on several ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from protocol.report import read_report
from tests.faults.test_broker_outage import assert_nothing_lost_or_doubled
from tests.processes.roles import DEADLINE_S, export, roles, start_broker

pytestmark = pytest.mark.processes
EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
EPOCHS = 8


def torchrun(ranks: int) -> tuple[str, ...]:
    """Words that start a script on so many ranks."""
    return (str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", str(ranks))


def run(*words: str, cwd: Path) -> str:
    environment = {**os.environ, "RAY_worker_niceness": "0"}  # of itself 15, and starved by whatever else runs here
    within_s = 2 * DEADLINE_S
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=within_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def trained(directory: Path, launcher: tuple[str, ...], *, batch_size: int) -> dict[str, torch.Tensor]:
    """The weights that the plain script has trained, all instances in each epoch."""
    directory.mkdir()
    with roles() as start:
        broker, address, _ = start_broker(start, directory / "run")
        words = ("--broker", address, "--policy", "uniform", "--epochs", "2", "--batch-size", str(batch_size))
        run(*launcher, str(EXAMPLES / "plain.py"), *words, "--save", str(directory / "net.pt"), cwd=directory)
        assert broker.end() == 0, broker.text
    assert_nothing_lost_or_doubled(directory / "run", 2)
    weights: dict[str, torch.Tensor] = torch.load(directory / "net.pt", weights_only=True)
    return weights


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, torch.Tensor]]:
    """Steps and weights of one rank."""
    directory = tmp_path_factory.mktemp("alone") / "one"
    weights = trained(directory, (sys.executable,), batch_size=64)
    return read_report(directory / "run").boss.steps, weights


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_train_together_what_one_rank_with_as_large_a_batch_trains(
    tmp_path: Path, alone: tuple[int, dict[str, torch.Tensor]], ranks: int
) -> None:
    """The same instances in each step, and the same gradient, in a plain script under torchrun."""
    steps, weights = alone
    together = trained(tmp_path / "together", torchrun(ranks), batch_size=64 // ranks)
    assert read_report(tmp_path / "together" / "run").boss.steps == steps
    for name, tensor in weights.items():
        assert torch.allclose(tensor, together[name], atol=1e-4), name


AFTER_ITS_ASSISTANT = """
import runpy, sys, threading, autoassist
local = autoassist.Feed.local

def with_assistant(*given, **options):
    feed = local(*given, **options)
    log = feed.run_dir / "logs" / "assistant-0.log"
    while not (log.exists() and "joined the run" in log.read_text()):
        threading.Event().wait(0.05)
    return feed

autoassist.Feed.local = with_assistant
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script as it stands, but for its first step, which waits for the Assistant; so few of them may suffice."""


def test_the_plain_script_starts_its_own_roles_and_filters(tmp_path: Path) -> None:
    words = (sys.executable, "-c", AFTER_ITS_ASSISTANT, str(EXAMPLES / "plain.py"), "--epochs", "20")
    assert "last loss" in run(*words, cwd=tmp_path)
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert read_report(run_dir).selection.kept_fraction < 0.95


OTHERS = {
    "with_lightning.py": ("lightning", torchrun(2)),
    "with_accelerate.py": ("accelerate", torchrun(2)),
    "fsdp2.py": ("torch", torchrun(2)),
    "ray_train.py": ("ray", (sys.executable,)),
}


@pytest.mark.parametrize("script", OTHERS)
def test_under_other_launchers_and_wrappers_two_ranks_train_what_is_kept_once(tmp_path: Path, script: str) -> None:
    """Nothing shards the feed's batches again: each kept instance is trained and reported once over the ranks."""
    package, launcher = OTHERS[script]
    pytest.importorskip(package, reason=f"{script} needs {package}: pip install 'autoassist[integrations,ray]'")
    run_dir, weights = tmp_path / "run", tmp_path / "boss.pt"
    with roles() as start:
        broker, address, _ = start_broker(start, run_dir)
        assistant = start("assistant", "--broker", address)
        assistant.wait_for("waiting for the broker")
        words = ("--broker", address, "--policy", "random-drop", "--epochs", str(EPOCHS), "--save", str(weights))
        run(*launcher, str(EXAMPLES / script), *words, cwd=tmp_path)
        assert assistant.end() == broker.end() == 0, broker.text
    assert_nothing_lost_or_doubled(run_dir, EPOCHS)
    report = read_report(run_dir)
    assert report.selection.kept_fraction < 0.9
    assert report.loss_reports.sent == report.loss_reports.delivered
    assert {batch["rank"] for batch in export(run_dir)} == {0, 1}
    assert accuracy(weights) > 0.9


def accuracy(weights: Path) -> float:
    """Of the network that an example has saved, on what it was trained on."""
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    net.load_state_dict(torch.load(weights, weights_only=True))
    images, labels = load_digits(return_X_y=True)
    found = net(torch.tensor(images / 16.0, dtype=torch.float32)).argmax(1)
    return float((found == torch.tensor(labels)).float().mean())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_an_example_fits_on_a_screen(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 60
