"""The roles in containers, for real: they are killed, cut off, scaled and started again, and nothing is lost.

Wants a Docker engine; `make test-compose` runs it.
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol.report import read_report
from tests.compose.project import DEADLINE_S, Project, build_images, project, run, why_not
from tests.faults.test_broker_outage import assert_nothing_lost_or_doubled
from tests.processes.roles import export

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]
RESUMED = "resuming from the checkpoint of step"
PACED = Path(__file__).with_name("paced_digits.py")


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    """Built once, where an engine answers."""
    if reason := why_not():
        pytest.skip(reason)
    build_images()


@contextmanager
def paced_run(files: Path, **environment: str) -> Iterator[tuple[Project, Path]]:
    """A project whose Boss takes its time until the second thing given, a file, is removed."""
    files.mkdir()
    files.chmod(0o755)
    shutil.copyfile(PACED, files / PACED.name)
    (files / "slow").touch()
    environment |= {"FILES": str(files), "WORKLOAD": f"/files/{PACED.name}:PacedDigits"}
    with project(**environment) as one:
        one.compose("up", "--detach")
        yield one, files / "slow"


def test_a_run_survives_killed_and_cut_off_assistants_and_a_killed_broker(tmp_path: Path) -> None:
    epochs = 16
    with paced_run(tmp_path / "files", EPOCHS=str(epochs)) as (one, slow):
        one.wait_until(lambda: one.steps() > 0, "the first step")
        one.compose("up", "--detach", "--scale", "assistant=4")
        containers = one.containers("assistant")
        killed, cut_off, *others = [one.name_of(container) for container in containers]
        one.wait_for_assistants(killed, cut_off, *others)

        run("docker", "kill", containers[0])
        one.wait_for_assistants(cut_off, *others)
        run("docker", "network", "disconnect", f"{one.name}_roles", containers[1])
        one.wait_for_assistants(*others)
        assert one.ask(containers[1], "healthy", "assistant")[0] == 1
        one.wait_for_steps(3)
        run("docker", "network", "connect", f"{one.name}_roles", containers[1])
        one.wait_for_assistants(cut_off, *others)
        assert one.ask(containers[1], "healthy", "assistant")[0] == 0

        run("docker", "kill", one.containers("broker")[0])
        one.compose("up", "--detach", "--scale", "assistant=4")
        one.wait_for_assistants(killed, cut_off, *others)
        one.wait_for_steps(3)
        slow.unlink()
        assert [one.wait_for_end(service) for service in ("boss", "broker", "assistant")] == [[0], [0], [0] * 4]
        run_dir = one.copy_run("first", tmp_path)
    assert_nothing_lost_or_doubled(run_dir, epochs)
    judges = {segment["assistant"] for batch in export(run_dir) for segment in batch["segments"]}
    assert judges & {killed, cut_off, *others}


def test_crashed_roles_are_started_again_and_a_stopped_run_goes_on(tmp_path: Path) -> None:
    epochs = 12
    with paced_run(tmp_path / "files", EPOCHS=str(epochs), CHECKPOINT_EVERY="10") as (one, slow):
        one.wait_until(lambda: one.steps() > 12, "the first checkpoint")
        one.crash("boss")
        one.wait_until(lambda: RESUMED in one.compose("logs", "boss"), "the Boss's return")
        one.wait_until(lambda: one.steps() > 15, "its steps")
        one.crash("broker")
        one.wait_until(lambda: one.inspect(one.containers("broker")[0])["RestartCount"] == 1, "the broker's return")
        one.wait_until(lambda: one.steps() > 25, "its steps")
        one.compose("stop")
        assert [one.wait_for_end(service) for service in ("boss", "assistant", "broker")] == [[0], [0], [0]]
        stopped_at = read_report(one.copy_run("first", tmp_path / "stopped")).boss.steps
        assert stopped_at > 25

        slow.unlink()
        assert f"{RESUMED} {stopped_at - 1}" in one.compose("up")
        assert [one.wait_for_end(service) for service in ("boss", "assistant", "broker")] == [[0], [0], [0]]
        run_dir = one.copy_run("first", tmp_path)
    assert_nothing_lost_or_doubled(run_dir, epochs)


def test_a_finished_run_stays_so_and_another_one_begins_beside_it(tmp_path: Path) -> None:
    with project(EPOCHS="2") as one:
        one.compose("up")
        keys = run("docker", "logs", one.containers("keys")[0])
        assert "keys for the broker" in keys
        first = one.copy_run("first", tmp_path)
        assert_nothing_lost_or_doubled(first, 2)
        assert {"boss.pt", "report.json"} <= {entry.name for entry in first.iterdir()}

        assert one.compose("up").count("/runs/first: the run is finished") == 3
        one.environment["RUN"] = "second"
        assert "has its keys already" in one.compose("up")
        assert_nothing_lost_or_doubled(one.copy_run("second", tmp_path), 2)


def test_the_page_shows_the_run_to_who_has_its_token_and_to_nobody_else(tmp_path: Path) -> None:
    with paced_run(tmp_path / "files", PAGE_PORT="0") as (one, _):
        one.compose("--profile", "page", "up", "--detach", "page")
        (page,) = one.containers("page")
        one.wait_until(lambda: "/?token=" in run("docker", "logs", page), "the page's address")
        token = run("docker", "logs", page).partition("/?token=")[2].split()[0]
        published = run("docker", "port", page, "8080").split()[0]
        assert published.startswith("127.0.0.1:")

        def latest(**headers: str) -> dict[str, Any]:
            asked = urllib.request.Request(f"http://{published}/latest.json", headers=headers)
            with urllib.request.urlopen(asked, timeout=DEADLINE_S) as answer:
                return dict(json.load(answer))

        with pytest.raises(urllib.error.HTTPError, match="401"):
            latest()
        one.wait_until(lambda: latest(Authorization=f"Bearer {token}")["state"] == "live", "the run on the page")
        assert one.ask(page, "healthy", "page")[0] == 0
        assert (
            one.ask(page, "ls", "/keys")[1].split() == ["monitor.key"]
            and one.ask(page, "id", "-u")[1].strip() == "1000"
        )
        assert one.ask(page, "touch", "/keys/new")[0] != 0 and one.ask(page, "python", "-c", "import torch")[0] != 0


def test_each_container_holds_no_more_than_its_role_needs(tmp_path: Path) -> None:
    with paced_run(tmp_path / "files") as (one, _):
        containers = {service: one.containers(service)[0] for service in ("broker", "assistant", "boss")}
        one.wait_until(lambda: len(one.assistants()) == 1, "an Assistant")
        keys = {service: one.ask(container, "ls", "/keys")[1].split() for service, container in containers.items()}
        assert keys["assistant"] == ["assistant.key"] and keys["boss"] == ["boss.key"]
        assert {"broker.key", "allowed.txt"} <= set(keys["broker"])
        for container in containers.values():
            assert one.ask(container, "id", "-u")[1].strip() == "1000"
            assert one.ask(container, "touch", "/keys/new")[0] != 0
            assert one.ask(container, "touch", "/home/autoassist/new")[0] != 0
        assert one.ask(containers["boss"], "python", "-c", "import torch")[0] == 0
        assert one.ask(containers["broker"], "python", "-c", "import torch")[0] != 0
        for service, container in containers.items():
            assert one.ask(container, "healthy", service)[0] == 0, service
