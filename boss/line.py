"""The Boss's I/O thread: the only one that touches the socket. The training thread never waits for it, only with it for
its own device."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from boss.ahead import Ahead
from boss.farewell import AWAY_S, DRAIN_S, is_committed
from boss.plan import BossPlan, Item
from boss.ranks import RankGroup
from boss.reporter import Reporter
from boss.rest import COPY_POLL_S, IDLE_S, Rest
from boss.shared_stream import SharedStream
from boss.wake import Wake
from protocol.client import RoleClient
from protocol.cores import keep_aside
from protocol.errors import AutoAssistError
from protocol.messages import AnyMessage, Checkpoint, Credit, EpochResult, Goodbye, Return, Stop, Welcome
from protocol.settings import require

log = logging.getLogger("autoassist.boss")

ONCE_VARIABLE = "AUTOASSIST_RANKS_ONCE"
"""Set where ranks that fail by themselves are not started again."""
COPIES_S = 4.0
"""How long losses are waited for at the end: a device may stand still for good, where another rank is gone."""
Ended = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """What the Boss does while no batch comes."""

    on_broker_loss: Literal["local", "wait"] = "local"
    """local: train on batches drawn here, unfiltered and off the plan, until the broker is back. wait: wait for it."""

    local_after_s: float = 0.25
    """How long an empty feed waits before it draws; it counts as exposed wait."""

    def __post_init__(self) -> None:
        require(self.local_after_s > 0, "local_after_s", self.local_after_s, "must be a positive number of seconds")


class BossLine:
    """Owns the client in a thread of its own; hands items over under one short lock."""

    def __init__(
        self,
        client: RoleClient,
        plan: BossPlan,
        reporter: Reporter,
        *,
        local_after_s: float | None = None,
        group: RankGroup | None = None,
    ) -> None:
        self._local_after_s = local_after_s
        self._is_local = False
        """Whether the last batch was drawn here: while that lasts, the next one is drawn without another wait."""
        self._client = client
        self._plan = plan
        self._few = plan.settings.prefetch_batches // 2
        """Where so few batches are ready the broker must hear of a pull at once; else it hears with the next report."""
        self._reporter = reporter
        self._outbox: deque[AnyMessage] = deque()
        self._changed = threading.Condition()
        self._ahead = Ahead(reporter, self._changed, plan.settings.prefetch_batches)
        self._wake = Wake()
        self._rest = Rest(reporter, self._wake, lambda seconds: client.wait(seconds, self._wake.fileno()))
        self._closing: Callable[[], Goodbye] | None = None
        self._away_s = AWAY_S
        self.hurries = False
        """Whether somebody wants to leave, or the broker has said that it does."""
        self._copied_by_s = 0.0
        self.all_acknowledged = False
        """Whether the broker had committed everything when this line was closed."""
        self._error: BaseException | None = None
        self._is_settled = False
        """Whether the broker has committed all that was to be said when ``_settle`` began to wait."""
        self._asks_what_is_committed = False
        self.leaves_silently = False
        """Whether there will be no Goodbye: this Boss comes again, or nobody is there to hear it."""
        self._granted: Credit | None = None
        self._grant_again_at = 0.0
        self._group = group
        self._shared = SharedStream(group, plan, self._changed, self.fail) if group is not None else None
        self.welcome: Welcome | None = None
        self.latest_result: EpochResult | None = None
        self._thread = threading.Thread(target=self._run, name="autoassist-boss-line", daemon=True)
        self._thread.start()

    # The training thread

    def pull(self) -> tuple[Item, float]:
        """The next item of the stream, and how long there was none.

        Raises what ended the I/O thread: PeerRefused or BrokerUnreachable.
        """
        if self._reporter.lag_steps > self._ahead.most_steps:
            self.until_done(self._ahead.most_steps)
        item = self._plan.pull()  # without the lock: nobody else takes from the stream, and it grows at its other end
        if item is None:
            item, waited_s = self._pull_in_time()
        else:
            self._is_local, waited_s = False, 0.0
        if len(self._plan.ready) <= self._few:
            self._wake()
        return item, waited_s

    def until_done(self, lag_steps: int = 0) -> bool:
        """Wait until the device is at most so many reports behind; whether it was further."""
        return self._ahead.until_done(lag_steps, self._wake, lambda: self._error is None and self._thread.is_alive())

    def _pull_in_time(self) -> tuple[Item, float]:
        start = time.monotonic()
        with self._changed:
            item = self._plan.pull()
            if item is not None:
                self._is_local = False
            while item is None and self._error is None:
                item = self._wait_or_draw(start)
        if item is None:
            assert self._error is not None
            raise self._error
        return item, time.monotonic() - start

    def _wait_or_draw(self, start: float) -> Item | None:
        """Wait for news; after ``local_after_s`` without a batch draw one here, so that the Boss trains on."""
        if self._local_after_s is None or not self._plan.may_draw_locally():
            self._changed.wait()
            return self._plan.pull()
        left = 0.0 if self._is_local else start + self._local_after_s - time.monotonic()
        if left > 0:
            self._changed.wait(left)
            return self._plan.pull()
        self._is_local = True
        self._plan.draw()
        self._changed.notify_all()  # the other ranks are to be told
        return self._plan.pull()

    @property
    def is_open(self) -> bool:
        """Whether the broker answers."""
        return self._client.is_open

    def put_back(self) -> None:
        """See BossPlan."""
        with self._changed:
            self._plan.put_back()

    def say(self, message: AnyMessage) -> None:
        """Send something; returns at once."""
        if isinstance(message, EpochResult):
            self.latest_result = message
        self._outbox.append(message)
        self.wake()

    def wake(self) -> None:
        """The I/O thread has something to do."""
        self._wake()

    def reported(self) -> None:
        """A report lies ready."""
        if len(self._plan.ready) <= self._few:
            self._wake()
        else:
            self._wake.soon()

    def cut(self, step: int, timeout_s: float) -> bool:
        """Send every report up to ``step`` and wait until the broker keeps the run so; False after ``timeout_s``.

        All ranks call it at the same step, and get the same answer.
        """
        if self._group is None:
            return self._cut(step, timeout_s)
        if not self._group.agree(self._settle(timeout_s)):
            return False
        return self._group.agree(self._group.rank > 0 or self._cut(step, timeout_s))

    def _cut(self, step: int, timeout_s: float) -> bool:
        self.say(Checkpoint(step=step))
        return self._wait(lambda: self._plan.checkpoint_taken >= step, timeout_s)

    def _settle(self, timeout_s: float) -> bool:
        """Whether the broker commits all that is to be said, in time."""
        with self._changed:
            self._is_settled, self._asks_what_is_committed = False, True
        self.wake()
        return self._wait(lambda: self._is_settled, timeout_s)

    def _wait(self, is_done: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not is_done() and self._error is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return self._error is None

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank; all ranks call it at the same step."""
        return [value] if self._group is None else self._group.gather(value)

    def has_lost_a_rank(self) -> bool:
        """Whether another rank of this Boss is gone."""
        return self._shared is not None and self._shared.has_lost_a_rank()

    def share(self) -> None:
        """Every rank has joined the run: the stream may flow between them."""
        if self._shared is not None:
            self._shared.start()

    def wait_for_welcome(self) -> Welcome:
        """Block until the broker answers; raises what ended the I/O thread."""
        with self._changed:
            while self.welcome is None and self._error is None:
                self._changed.wait()
        if self.welcome is None:
            assert self._error is not None
            raise self._error
        return self.welcome

    def stop(self) -> None:
        """End the run after the batch at hand; with several ranks, after what all of them know of. May be called from
        a signal."""
        self.hurries = True
        with self._changed:
            if self._plan.rank:
                assert self._shared is not None
                self._shared.ask_for_stop()
            else:
                self._plan.stop(Stop(reason="stopped"))
                self._changed.notify_all()

    def close(self, reason: Ended, figures: Callable[[], dict[str, float]]) -> None:
        """Send what is left, and a Goodbye, with figures of once all reports are under way; wait until it is committed.

        A finished run waits for a broker that is away as long as one that trains looks for it, unless it is stopped.
        A rank that fails, or has lost another one, leaves without a word: the run goes on where they are started again.
        """
        if self._shared is not None:
            self._shared.close(Stop(reason=reason))
            may_come_again = os.environ.get(ONCE_VARIABLE) is None
            self.leaves_silently = self._shared.lost is not None or (reason == "failed" and may_come_again)
        if reason == "finished":
            self._away_s = self._client.settings.reconnect_timeout_s
        self._hang_up(lambda: Goodbye(reason=reason, figures=figures()))

    def leave(self) -> None:
        """Hang up without a Goodbye: the same Boss comes again."""
        if self._shared is not None:
            self._shared.close(Stop(reason="stopped"))
        self.leaves_silently = True
        self._hang_up(lambda: Goodbye(reason="stopped"))

    def _hang_up(self, goodbye: Callable[[], Goodbye]) -> None:
        self._copied_by_s = time.monotonic() + COPIES_S
        self._closing = goodbye
        self.wake()
        self._thread.join(max(self._away_s, DRAIN_S) + DRAIN_S + COPIES_S)
        self._wake.close()

    # The I/O thread

    def _run(self) -> None:
        try:
            keep_aside()
            while self._closing is None or (self._reporter.is_waiting and time.monotonic() < self._copied_by_s):
                self._turn()
            self._turn()
            if self.welcome is not None and not self.leaves_silently:
                self._client.send(self._closing())
                self.all_acknowledged = is_committed(self._client, self._away_s, lambda: self.hurries)
                if not self.all_acknowledged:
                    log.warning("the broker did not acknowledge the last reports")
        except AutoAssistError as error:
            self.fail(error)
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self._client.close()

    def fail(self, error: BaseException) -> None:
        """From now on whoever waits for this line, or pulls what is not there, gets the error."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _turn(self) -> None:
        timeout_s = self._rest() if self._closing is None else COPY_POLL_S if self._reporter.is_waiting else 0.0
        messages = self._client.poll(timeout_s, self._wake.fileno())
        self._wake.clear()
        with self._changed:
            news = [self._take(message) for message in messages]
            if any(news):
                self._changed.notify_all()
            credit = self._plan.credit()
            returned, self._plan.to_return = self._plan.to_return, []
        if reports := self._reporter.take():
            self._rest.later(len(reports))
            self._ahead.came()
        for report in reports:
            self._client.send(report)
        if returned:
            self._client.send(Return(steps=returned))
        while self._outbox and not (self._reporter.is_waiting and isinstance(self._outbox[0], Checkpoint)):
            self._client.send(self._outbox.popleft())
        if self._client.is_open and self._plan.rank == 0 and self._is_news(credit, messages):
            self._client.send(credit)
        if not (self._is_settled or self._reporter.is_waiting or self._outbox):
            self._settled_or_ask()

    def _settled_or_ask(self) -> None:
        """All is said: it is settled once it is committed. Who waits for that does not wait for the next heartbeat."""
        if self._client.is_acknowledged:
            with self._changed:
                self._is_settled = True
                self._changed.notify_all()
        elif self._asks_what_is_committed:
            self._asks_what_is_committed = False
            self._client.ask()

    def _is_news(self, credit: Credit, messages: list[AnyMessage]) -> bool:
        """Whether the broker may not know how far it may send. Now and then it is told again: full lines lose some."""
        now = time.monotonic()
        begins_anew = any(isinstance(message, Welcome) for message in messages)
        if credit == self._granted and not begins_anew and now < self._grant_again_at:
            return False
        self._granted, self._grant_again_at = credit, now + IDLE_S
        return True

    def _take(self, message: AnyMessage) -> bool:
        if isinstance(message, Welcome):
            if self.welcome is None:
                for lengths in self._plan.lengths_for(message):
                    self._client.send(lengths)
            self.welcome = message
            return True
        self.hurries |= isinstance(message, Stop) and message.reason != "finished"
        return self._plan.receive(message)
