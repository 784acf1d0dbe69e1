"""What the tests of the launcher share: its children, and workloads that misbehave in one role."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.processes.roles import Role


def child(run: Role, command: str) -> psutil.Process:
    """The launched process of a role: broker, assistant or boss."""
    for process in psutil.Process(run.process.pid).children():
        if command in process.cmdline():
            return process
    raise AssertionError(f"no {command} is running")


def errors(run: Role) -> list[str]:
    """Lines that say an error, wherever it stands in them."""
    return [line for line in run.said if "error:" in line]


def write_workload(folder: Path, method: str, body: str) -> str:
    """A workload like digits, named ``Odd``, with one method of another body; ``role`` is who executes it."""
    path = folder / "odd.py"
    path.write_text(
        "import logging, sys, threading, torch\n"
        "from workloads.digits import Digits\n\n\n"
        "class Odd(Digits):\n"
        "    calls = 0\n\n"
        f"    def {method}(self, *given):\n"
        "        role = sys.argv[1]\n"
        "        Odd.calls += 1\n"
        + "".join(f"        {line}\n" for line in body.splitlines())
        + f"        return super().{method}(*given)\n"
    )
    return f"{path}:Odd"
