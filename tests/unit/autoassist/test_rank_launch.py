"""Which rank's end is the group's."""

from __future__ import annotations

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from autoassist.rank_launch import first_of
from protocol.errors import RankLost


def failure(exit_code: int, timestamp: int) -> ProcessFailure:
    found = ProcessFailure(local_rank=0, pid=1, exitcode=exit_code, error_file="")
    found.timestamp = timestamp
    return found


@pytest.mark.parametrize("exit_code", [-9, 2])
def test_a_rank_that_failed_counts_before_one_that_only_lost_it(exit_code: int) -> None:
    """The agent looks now and then, and may find both."""
    lost = failure(RankLost.exit_code, 100)
    assert first_of([lost, failure(exit_code, 101)]).exitcode == exit_code
    assert first_of([lost]) is lost


def test_of_several_that_failed_the_first_counts() -> None:
    assert first_of([failure(1, 102), failure(2, 101)]).exitcode == 2
