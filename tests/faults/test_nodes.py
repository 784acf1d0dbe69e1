"""Two nodes of one torchrun in two network namespaces."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.report import read_report
from tests.faults.test_broker_outage import assert_nothing_lost_or_doubled
from tests.faults.test_ranks import rank_pids
from tests.harness.hosts import Host, network_of
from tests.processes.roles import Role, export, roles
from tests.processes.test_examples import EXAMPLES

pytestmark = pytest.mark.processes
EPOCHS = 20
ADDRESSES = {"node-a": "10.77.0.1", "node-b": "10.77.0.2"}
BROKER = "tcp://10.77.0.1:5555"
QUICKLY = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3"
"""A node that is gone is given up after seconds."""
WITHIN_A_NODE = {"GLOO_SOCKET_IFNAME": "eth0", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONUNBUFFERED": "1"}


def start_node(start: Callable[..., Role], host: Host, checkpoint: Path) -> Role:
    """torchrun on this host, for one rank of the elastic example."""
    told = f"{QUICKLY},is_host={int(host.name == 'node-a')}"  # torch asks this machine's own name, which is of no host
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "node-a:29400", "--rdzv-id", "mine", "--rdzv-conf", told)
    mine = ("--nnodes", "1:2", "--local-addr", host.address, "--max-restarts", "3")
    words = ("--broker", BROKER, "--epochs", str(EPOCHS), "--checkpoint", str(checkpoint))
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    arguments = (*meeting, *mine, str(EXAMPLES / "elastic.py"), *words)
    return start(*arguments, program=(torchrun,), within=host.within, environment=WITHIN_A_NODE)


def test_two_nodes_of_one_torchrun_start_again_together_from_a_checkpoint_after_a_rank_was_killed(
    tmp_path: Path,
) -> None:
    run_dir, checkpoint = tmp_path / "run", tmp_path / "last.pt"
    with network_of(ADDRESSES, tmp_path) as hosts, roles() as start:
        a, b = hosts.values()
        broker = start("broker", "--run-dir", str(run_dir), "--host", a.address, "--insecure", within=a.within)
        first, second = (start_node(start, host, checkpoint) for host in (a, b))
        first.wait_for("of 2 goes on from step 0")
        first.wait_for("checkpoint of step")
        os.kill(rank_pids(second)[0], signal.SIGKILL)
        assert not first.wait_for("of 2 goes on from step").endswith("step 0")
        assert first.end() == second.end() == broker.end() == 0, first.text
    assert_nothing_lost_or_doubled(run_dir, EPOCHS)
    ranks_of_steps = Counter(batch["step"] for batch in export(run_dir) if batch["kind"] != "off_plan")
    assert set(ranks_of_steps.values()) == {2}
    reports = read_report(run_dir).loss_reports
    assert reports.sent == reports.delivered
