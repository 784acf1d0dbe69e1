"""Tells every rank of the stream's items, ahead of need, in a thread of its own.

Rank 0 makes the stream; what the others have is what it says, in its order. So no rank can do another number of steps
than the others, whatever becomes of its own line to the broker.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from boss.plan import BossPlan, Shared
from boss.ranks import RankGroup
from protocol.errors import RankLost
from protocol.messages import EpochEnd, Stop

log = logging.getLogger("autoassist.boss")

BEAT_S = 0.5
"""How long rank 0 says nothing at most: so long a wish of another rank may wait."""
NOTICE_S = 2.0
"""How long the end of a rank may take to be noticed by the others."""
END_S = 15.0
"""How long the end of the stream may take to reach every rank."""
STUCK_S = 30.0
"""How long the training thread may wait for a rank that is gone. Where a host vanishes without a word,
torch.distributed waits for half an hour, and nothing can interrupt it."""
AGENT_VARIABLE = "TORCHELASTIC_RUN_ID"
"""Set where torchrun watches this process, and sees to the others where it ends."""


class SharedStream:
    """One of these on each rank; ``changed`` guards the plan."""

    def __init__(
        self, group: RankGroup, plan: BossPlan, changed: threading.Condition, fail: Callable[[BaseException], None]
    ) -> None:
        self._group = group
        self._plan = plan
        self._changed = changed
        self._fail = fail
        self._wants_stop = False
        self._fails = False
        self.lost: RankLost | None = None
        self._is_leaving = threading.Event()
        """Whether the training thread knows that all is over."""
        self._thread = threading.Thread(target=self._run, name="autoassist-shared-stream", daemon=True)

    def start(self) -> None:
        """Once every rank has joined the run."""
        self._thread.start()

    def ask_for_stop(self) -> None:
        """Ask rank 0 for the end of the run. May be called from a signal."""
        self._wants_stop = True

    def close(self, reason: Stop) -> None:
        """End the stream if it goes on, and wait until all ranks have heard: a failure takes all of them along."""
        self._is_leaving.set()
        if self._thread.ident is None:
            return
        with self._changed:
            if reason.reason == "failed":
                self._fails = True
            elif self._group.rank == 0:
                self._plan.stop(reason)
            self._wants_stop = True
            self._changed.notify_all()
        self._thread.join(END_S)

    def has_lost_a_rank(self) -> bool:
        """Whether another rank is gone, as far as that shows within ``NOTICE_S``."""
        self._is_leaving.set()
        if self._thread.ident is not None:
            self._thread.join(NOTICE_S)
        return self.lost is not None

    def _run(self) -> None:
        try:
            while not self._turn():
                pass
        except RankLost as error:
            self.lost = error
            self._fail(error)
            self._end_if_stuck(error)
        except BaseException as error:
            self._fail(error)
            raise

    def _end_if_stuck(self, error: RankLost) -> None:
        if AGENT_VARIABLE in os.environ and not self._is_leaving.wait(STUCK_S):
            log.error("%s; this one still waits for it, and is ended so that all can start again", error)
            os._exit(error.exit_code)

    def _turn(self) -> bool:
        """One exchange; whether it was the last, by the stream's last item or a rank's failure."""
        items = self._news() if self._group.rank == 0 else []
        fails = self._fails
        heard = self._group.exchange(items, wants_stop=self._wants_stop, fails=fails)
        if heard.fails:
            if not fails:
                raise RankLost("another rank has failed, and says why itself")
            return True
        with self._changed:
            if self._group.rank:
                for item in heard.items:
                    self._plan.follow(item)
            elif heard.wants_stop:
                self._plan.stop(Stop(reason="stopped"))
            if heard.items or heard.wants_stop:
                self._changed.notify_all()
        return any(_is_last(item) for item in heard.items)

    def _news(self) -> list[Shared]:
        with self._changed:
            self._changed.wait_for(lambda: self._plan.to_share or self._wants_stop, BEAT_S)
            items = list(self._plan.to_share)
            self._plan.to_share.clear()
        return items


def _is_last(item: Shared) -> bool:
    return isinstance(item, Stop) or (isinstance(item, EpochEnd) and item.last)
