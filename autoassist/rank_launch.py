"""Several Boss ranks on this machine, for `autoassist boss --world-size N` without torchrun: torch's own agent starts
them, ends all where one fails, and passes a stop on."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Collection, Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from autoassist.cli import PARENT_VARIABLE
from boss.line import ONCE_VARIABLE
from protocol.errors import RankLost


def are_launched() -> bool:
    """Whether this process is a rank that torchrun, or another launcher that speaks its language, has started."""
    return "RANK" in os.environ


def launch_ranks(count: int, arguments: Sequence[str]) -> int:
    """Run ``autoassist`` with these arguments on ``count`` ranks; returns the exit code.

    Ends by the signal that has killed a rank, so that who watches this process sees what happened. Nothing is started
    again here: that is for whoever knows the checkpoints.
    """
    logging.disable(logging.CRITICAL)  # the ranks say their errors themselves
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    os.environ[ONCE_VARIABLE] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "autoassist", *arguments)
    except SignalException:
        return 0  # the ranks have stopped in order, and said so to the broker
    except ChildFailedError as error:
        failure = first_of(error.failures.values())
        if failure.exitcode < 0:
            _end_by(signal.Signals(-failure.exitcode))
        return int(failure.exitcode)
    return 0


def first_of(failures: Collection[ProcessFailure]) -> ProcessFailure:
    """The one that counts: who has lost another rank has not failed itself, though it may have ended first."""
    return min(failures, key=lambda one: (one.exitcode == RankLost.exit_code, one.timestamp))


def _end_by(number: signal.Signals) -> None:
    if number is not signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
