"""Nodes of one torchrun in network namespaces: a rank dies, a node dies, a node joins."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from boss.checkpoint import CheckpointDir
from protocol.report import read_report
from tests.faults.test_broker_outage import HEAVY, assert_nothing_lost_or_doubled, trained_by_epoch
from tests.faults.test_ranks import rank_pids
from tests.harness.hosts import Host, network_of
from tests.processes.roles import Role, export, roles
from tests.processes.test_examples import EXAMPLES

pytestmark = pytest.mark.processes
EPOCHS = 60
ADDRESSES = {"head": "10.77.0.1", "node-a": "10.77.0.2", "node-b": "10.77.0.3"}
BROKER = "tcp://10.77.0.1:5555"
QUICKLY = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3"
"""A node that is gone is given up after seconds."""
STORE = "import signal, torch.distributed as d; store = d.TCPStore('head', 29400, is_master=True); signal.pause()"
"""What docs/SCRIPTS.md starts on a host that is none of the nodes, so that any of these may die."""
WITHIN_A_NODE = {"GLOO_SOCKET_IFNAME": "eth0", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONUNBUFFERED": "1"}
WITHIN_A_NODE |= {"LOGLEVEL": "INFO"}
ATTENDS = "Rendezvous'ing worker group"
"""What torchrun says then, once it meets the others."""


def start_head(start: Callable[..., Role], head: Host, run_dir: Path) -> Role:
    """The broker, and the store at which the nodes meet."""
    start("-c", STORE, program=(sys.executable,), within=head.within)
    return start("broker", "--run-dir", str(run_dir), "--host", head.address, "--insecure", within=head.within)


def start_node(start: Callable[..., Role], host: Host, *words: str, nodes: str = "1:2") -> Role:
    """torchrun on this host, for one rank of these words; it begins with so many nodes, at least and at most."""
    told = f"{QUICKLY},is_host=0"  # torch asks this machine's own name, which is of no host
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "head:29400", "--rdzv-id", "mine", "--rdzv-conf", told)
    mine = ("--nnodes", nodes, "--local-addr", host.address, "--max-restarts", "3")
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    return start(*meeting, *mine, *words, program=(torchrun,), within=host.within, environment=WITHIN_A_NODE)


def test_two_nodes_of_one_torchrun_start_again_together_from_a_checkpoint_after_a_rank_was_killed(
    tmp_path: Path,
) -> None:
    run_dir, checkpoint = tmp_path / "run", tmp_path / "last.pt"
    script = (str(EXAMPLES / "elastic.py"), "--broker", BROKER, "--epochs", str(EPOCHS))
    with network_of(ADDRESSES, tmp_path) as hosts, roles() as start:
        broker = start_head(start, hosts["head"], run_dir)
        words = (*script, "--checkpoint", str(checkpoint))
        first, second = (start_node(start, hosts[name], *words, nodes="2") for name in ("node-a", "node-b"))
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


def test_when_a_node_dies_the_other_goes_on_alone_until_one_joins_and_ctrl_c_ends_the_run(tmp_path: Path) -> None:
    """SIGTERM, with which torchrun ends the ranks that are to begin anew, does not."""
    run_dir = tmp_path / "run"
    words = ("--broker", BROKER, "--epochs", "1000", "--batch-size", "32", "--on-broker-loss", "wait")
    kept = ("--checkpoint-every", "10", "--checkpoint-dir", str(tmp_path / "kept"))
    boss = ("-m", "autoassist", "boss", HEAVY, *words, *kept)
    with network_of(ADDRESSES, tmp_path) as hosts, roles() as start:
        broker = start_head(start, hosts["head"], run_dir)
        start_node(start, hosts["node-a"], *boss, nodes="2").wait_for(ATTENDS)
        b = start_node(start, hosts["node-b"], *boss)  # it would begin alone
        broker.wait_for("epoch 1 is being cut")
        hosts["node-a"].kill()  # the one of rank 0
        b.wait_for("resuming from the checkpoint")
        broker.catch_up()
        broker.wait_for("is being cut")
        again = start_node(start, hosts["node-a"], *boss)
        again.wait_for("resuming from the checkpoint")
        broker.catch_up()
        broker.wait_for("is being cut")
        for node in (again, b):
            node.process.send_signal(signal.SIGINT)
        assert broker.end() == 0, broker.text
    report, kept_last = read_report(run_dir), CheckpointDir(tmp_path / "kept", 2).entries()[-1]
    assert (report.status, kept_last.step) == ("stopped", report.boss.steps - 1)
    batches = export(run_dir)
    assert max(trained_by_epoch(batches).values()) == 1
    of_steps = Counter(batch["step"] for batch in batches)
    assert [ranks for ranks, _ in groupby(of_steps[step] for step in sorted(of_steps))] == [2, 1, 2]
