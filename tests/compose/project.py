"""docker compose from a test: a project of its own, whose containers, networks and volumes are gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 240.0
LOOK_S = 0.3
IMAGE = "autoassist-test"
METRICS = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9155/metrics', timeout=5).read().decode())"
CRASH = "import psutil; psutil.Process(1).children()[0].kill()"


def compose_command() -> list[str]:
    """COMPOSE where it is set, else `docker compose`, else docker-compose; empty where none answers."""
    for command in filter(None, (os.environ.get("COMPOSE"), "docker compose", "docker-compose")):
        words = command.split()
        if shutil.which(words[0]) and _succeeds(*words, "version"):
            return words
    return []


def why_not() -> str:
    """Why no container can be started here; "" where one can."""
    if not shutil.which("docker") or not _succeeds("docker", "info"):
        return "no Docker engine answers: docker info fails"
    return "" if compose_command() else "neither docker compose nor docker-compose is installed"


def _succeeds(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False, timeout=60.0).returncode == 0


def run(*words: str, environment: dict[str, str] | None = None, timeout_s: float = DEADLINE_S) -> str:
    """What a command says; AssertionError with all of it where it fails."""
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def build_images() -> None:
    """What `make compose-image` builds, under a name of the tests' own; a first time takes minutes."""
    command = " ".join(compose_command())
    run("make", "compose-image", f"COMPOSE={command}", environment={"IMAGE": IMAGE}, timeout_s=1700.0)


class Project:
    """Containers of docker-compose.yml that reach no internet."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.name = f"autoassist-{uuid.uuid4().hex[:8]}"
        self.environment = {"IMAGE": IMAGE, **environment}
        self._words = [*compose_command(), "-p", self.name]
        for file in ("docker-compose.yml", "tests/compose/no_internet.yml"):
            self._words += ["-f", file]

    def compose(self, *words: str) -> str:
        """A command of docker compose."""
        return run(*self._words, *words, environment=self.environment)

    def containers(self, service: str) -> list[str]:
        """IDs of a service's containers, those that have ended too, the oldest first."""
        labels = {"project": self.name, "service": service}
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        return run("docker", "ps", "--all", "--quiet", *filters).split()[::-1]

    def inspect(self, container: str) -> dict[str, Any]:
        """What the engine knows of a container."""
        return dict(json.loads(run("docker", "inspect", container))[0])

    def name_of(self, assistant: str) -> str:
        """How the broker calls the Assistant of a container."""
        return f"assistant-{self.inspect(assistant)['Config']['Hostname']}"

    def ask(self, container: str, *words: str) -> tuple[int, str]:
        """Exit code and words of a command in a container."""
        done = subprocess.run(
            ["docker", "exec", container, *words], capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )
        return done.returncode, done.stdout

    def crash(self, service: str) -> None:
        """kill -9 within the container: the engine takes it for a crash, and `docker kill` for somebody's wish."""
        # Whether this outlives the container, to say that it has done it, is a matter of luck.
        self.ask(self.containers(service)[0], "python", "-c", CRASH)

    def metrics(self) -> list[Any]:
        """The broker's samples; none where it does not answer."""
        code, text = self.ask(self.containers("broker")[0], "python", "-c", METRICS)
        families = text_string_to_metric_families(text) if code == 0 else ()
        return [sample for family in families for sample in family.samples]

    def steps(self) -> int:
        """Steps that the Boss has trained, as the broker knows."""
        return int(sum(sample.value for sample in self.metrics() if sample.name == "autoassist_boss_steps_total"))

    def assistants(self) -> set[str]:
        """Names of the Assistants that the broker hears."""
        peers = [sample.labels for sample in self.metrics() if sample.name == "autoassist_peer_silent_seconds"]
        return {labels["peer"] for labels in peers if labels["role"] == "assistant"}

    def wait_until(self, is_true: Callable[[], bool], what: str) -> None:
        """Look until it is true."""
        deadline = time.monotonic() + DEADLINE_S
        while not is_true():
            assert time.monotonic() < deadline, f"never saw {what}; the containers said:\n{self.compose('logs')}"
            threading.Event().wait(LOOK_S)

    def wait_for_steps(self, more: int) -> None:
        """Until the Boss has trained so many more, with the broker's knowledge."""
        before = self.steps()
        self.wait_until(lambda: self.steps() >= before + more, f"step {before + more}")

    def wait_for_assistants(self, *names: str) -> None:
        """Until the broker hears these Assistants, and no other."""
        self.wait_until(lambda: self.assistants() == set(names), f"Assistants {names}")

    def wait_for_end(self, service: str) -> list[int]:
        """Exit codes of a service's containers, once all have ended."""

        def states() -> list[dict[str, Any]]:
            return [self.inspect(container)["State"] for container in self.containers(service)]

        self.wait_until(lambda: all(state["Status"] == "exited" for state in states()), f"the end of {service}")
        return [state["ExitCode"] for state in states()]

    def copy_run(self, name: str, to: Path) -> Path:
        """The run's directory, out of its volume; ``to`` is made, since the engine would rename what it copies."""
        to.mkdir(exist_ok=True)
        run("docker", "cp", f"{self.containers('broker')[0]}:/runs/{name}", str(to))
        return to / name

    def remove(self) -> None:
        """Containers, networks, volumes; compose v2 leaves services of profiles that are not named."""
        profiles = ("--profile", "page", "--profile", "monitoring")
        self.compose(*profiles, "down", "--volumes", "--timeout", "1", "--remove-orphans")


@contextmanager
def project(**environment: str) -> Iterator[Project]:
    """A project that is not started yet; nothing is left of it afterwards."""
    one = Project(environment)
    try:
        yield one
    finally:
        one.remove()
        for kind in ("container", "network", "volume"):
            listing = ["docker", kind, "ls", "--quiet", f"--filter=label=com.docker.compose.project={one.name}"]
            assert not run(*listing), f"{one.name} has left a {kind}"
