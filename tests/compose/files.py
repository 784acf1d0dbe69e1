"""The compose files as docker compose understands them: values filled in, files merged."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("broker", "assistant", "boss")
VARIABLE = re.compile(r"\$\{(\w+)(:?)-([^}]*)\}|\$(\$)")


def filled_in(text: str, environment: dict[str, str]) -> str:
    """Variables by their values or defaults, and $$ by $."""

    def value(found: re.Match[str]) -> str:
        if found[4]:
            return "$"
        given = environment.get(found[1])
        return found[3] if given is None or (found[2] and not given) else given

    return VARIABLE.sub(value, text)


def services(*names: str, **environment: str) -> dict[str, Any]:
    """The services of these files, later ones over earlier ones; without a name those of docker-compose.yml."""
    merged: dict[str, Any] = {}
    for name in names or ("docker-compose.yml",):
        merged = _merge(merged, _filled(yaml.safe_load((ROOT / name).read_text())["services"], environment))
    return merged


def _filled(node: Any, environment: dict[str, str]) -> Any:
    match node:
        case dict():
            return {key: _filled(value, environment) for key, value in node.items()}
        case list():
            return [_filled(value, environment) for value in node]
        case str():
            return filled_in(node, environment)
    return node


def _merge(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _merge(one.get(key), other[key]) if key in other else one[key] for key in one | other}
    return other


def words_of(service: dict[str, Any], folder: Path) -> list[str]:
    """What the service's container gives to `autoassist`; none where it does not come to that.

    Its entrypoint runs for real, here, with ``folder`` for its volumes.
    """
    program = folder / "bin" / "autoassist"
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    environment = {name: value.replace("/runs/", f"{folder}/") for name, value in service["environment"].items()}
    done = subprocess.run(
        [ROOT / "deploy" / "compose" / "role", *shlex.split(service["command"])],
        env={"PATH": f"{program.parent}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [] if "is finished" in done.stdout else done.stdout.splitlines()


def make_keys(folder: Path) -> None:
    """What the service `keys` does, with ``folder`` for its volumes."""
    program = folder / "bin" / "autoassist"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m autoassist "$@"\n')
    program.chmod(0o755)
    service = services()["keys"]
    (script,) = service["command"]
    for place in ("/keys", "/key-of"):
        script = re.sub(rf"(?<![\w/]){place}\b", f"{folder}{place}", script)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    subprocess.run([*service["entrypoint"], script], env=environment, cwd=ROOT, check=True, capture_output=True)
