"""deploy/slurm: a script that the shell and our command line take, and that goes on after a failure and a requeue."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.unit.project.shell_commands import commands, parse, parse_torchrun

SCRIPT = Path(__file__).resolve().parents[3] / "deploy" / "slurm" / "autoassist.sbatch"
TEXT = SCRIPT.read_text()
GIVEN = {"SLURM_NNODES": "2", "SLURM_NODEID": "1", "number": "1", "PORT": "20000", "HEAD": "node-1"}
VARIABLES = (
    GIVEN
    | {"RUN_DIR": "/shared/run", "BROKER": "tcp://node-1:20000", "WORKLOAD": "digits"}
    | dict(re.findall(r"^(\w+)=\$\{\w+:-(\w+)\}$", TEXT, re.M))
    | {"RANKS_PER_NODE": "4"}
)


def line(role: str) -> str:
    """The line that starts a role, sums worked out."""
    (found,) = [one for one in commands(TEXT.replace("'", "")) if f"autoassist {role} " in one]
    return re.sub(r"\$\(\(PORT \+ (\d)\)\)", lambda sum_: str(20000 + int(sum_[1])), found)


def command(role: str) -> Any:
    return parse(line(role), VARIABLES)


def test_shellcheck_has_nothing_to_say() -> None:
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([program, str(SCRIPT)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("role", ["broker", "assistant", "boss", "keys"])
def test_commands_are_such_that_our_command_line_takes(role: str) -> None:
    assert command(role)


def test_roles_meet_at_one_address_and_ports_differ() -> None:
    broker, options = command("broker").broker, parse_torchrun(line("boss"), VARIABLES)
    assert {command(role).connect.broker for role in ("assistant", "boss")} == {
        f"tcp://{VARIABLES['HEAD']}:{broker.port}"
    }
    assert {broker.port, broker.statistics_port, options.master_port} == {20000, 20001, 20002}
    assert options.master_addr == VARIABLES["HEAD"] and broker.host == "0.0.0.0"


def test_ranks_are_as_many_as_nodes_times_ranks_on_each() -> None:
    options = parse_torchrun(line("boss"), VARIABLES)
    assert (options.nnodes, options.nproc_per_node, options.node_rank, options.max_restarts) == ("2", "4", 1, 0)


def test_all_roles_use_the_keys_that_the_script_makes() -> None:
    made = command("keys")
    assert made.keep, "a job that is started again has its keys already"
    keys = {str(command("broker").broker.keys), *(str(command(role).connect.keys) for role in ("assistant", "boss"))}
    assert keys == {str(made.directory)}


def test_what_a_job_that_is_started_again_needs_lies_in_the_run_directory() -> None:
    broker, boss = command("broker").broker, command("boss").checkpoints
    assert broker.resume and boss.resume and boss.checkpoint_every > 0
    paths = [broker.run_dir, boss.checkpoint_dir, boss.save, command("assistant").assistant.state_dir]
    assert all(path.is_relative_to(VARIABLES["RUN_DIR"]) for path in paths)


def test_the_job_is_requeued_before_its_time_is_up() -> None:
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.+))?$", TEXT, re.M))
    assert "requeue" in directives and directives["signal"].startswith("B:USR1@")
    assert directives["open-mode"] == "append" and directives["ntasks-per-node"] == "1"
    assert re.search(r"scontrol requeue .* USR1$", TEXT, re.M)


class Cluster:
    """The script on a machine whose Slurm, torchrun and autoassist are these small scripts."""

    def __init__(self, path: Path) -> None:
        self.path, self.run_dir = path, path / "run"
        (path / "bin").mkdir()
        self.program("scontrol", 'echo "scontrol $*" >>calls\necho node-1')
        self.program("srun", 'echo srun >>calls\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"')
        self.program("autoassist", 'echo "autoassist $1" >>calls')

    def program(self, name: str, script: str) -> None:
        path = self.path / "bin" / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node-1", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
        place = {"PATH": f"{self.path / 'bin'}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(self.path)}
        return subprocess.run(
            ["bash", str(SCRIPT)],
            cwd=self.path,
            env={**job, **place, "RUN_DIR": str(self.run_dir), **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self, word: str) -> int:
        path = self.path / "calls"
        return path.read_text().split().count(word) if path.exists() else 0


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


FINISH = 'mkdir -p "$RUN_DIR"; echo \'{ "status": "finished" }\' >"$RUN_DIR/report.json"'


def test_a_boss_that_fails_is_started_again_and_the_job_ends_well_with_the_run(cluster: Cluster) -> None:
    cluster.program("torchrun", f"echo torchrun >>calls\n[ -e failed ] || {{ touch failed; exit 1; }}\n{FINISH}")
    done = cluster.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert cluster.calls("torchrun") == 2 and "attempt 1 of 5" in done.stdout
    assert cluster.calls("broker") == 1 and cluster.calls("assistant") == 2


def test_a_boss_that_fails_again_and_again_fails_the_job(cluster: Cluster) -> None:
    cluster.program("torchrun", "echo torchrun >>calls\nexit 1")
    assert cluster.run(ATTEMPTS="3").returncode == 1
    assert cluster.calls("torchrun") == 3


def test_a_job_that_fails_leaves_no_role_behind(cluster: Cluster) -> None:
    cluster.program("autoassist", '[ "$1" = keys ] || { echo $$ >>started; exec sleep 60; }')
    cluster.program("torchrun", "until [ $(grep -c . started) = 3 ]; do :; done 2>/dev/null; exit 1")
    assert cluster.run(ATTEMPTS="1").returncode == 1
    for pid in (cluster.path / "started").read_text().split():
        with suppress(psutil.NoSuchProcess):
            psutil.Process(int(pid)).wait(timeout=30)


def test_a_role_that_fails_is_started_again(cluster: Cluster) -> None:
    cluster.program(
        "autoassist", 'echo "autoassist $1" >>calls\n[ "$1" = keys ] || [ -e "$1" ] || { touch "$1"; exit 1; }'
    )
    cluster.program("torchrun", f"until [ $(grep -c broker calls) = 2 ]; do :; done\n{FINISH}")
    assert cluster.run(ASSISTANTS="1").returncode == 0
    assert cluster.calls("broker") == cluster.calls("assistant") == 2


def test_a_run_that_somebody_has_stopped_is_no_success(cluster: Cluster) -> None:
    cluster.program("torchrun", "exit 0")
    done = cluster.run()
    assert done.returncode == 1 and f"submit this again with RUN_DIR={cluster.run_dir}" in done.stdout


def test_a_job_whose_run_is_finished_does_nothing(cluster: Cluster) -> None:
    cluster.program("torchrun", FINISH)
    assert cluster.run().returncode == 0
    before = cluster.calls("autoassist")
    assert cluster.run().returncode == 0 and cluster.calls("autoassist") == before


def test_the_signal_before_the_time_is_up_requeues_the_job(cluster: Cluster) -> None:
    cluster.program("torchrun", 'kill -USR1 "$SCRIPT"; exec sleep 30')
    cluster.program("srun", 'export SCRIPT=$PPID\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"')
    done = cluster.run()
    assert done.returncode == 0 and "the time is up" in done.stdout
    assert "scontrol requeue 7\n" in (cluster.path / "calls").read_text()
