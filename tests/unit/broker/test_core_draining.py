"""Many events are taken before the core looks at once what the Boss's demand asks for, as the broker's loop does it."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from broker.effects import Effect, Event, MessageReceived, Send, Tick
from protocol.messages import Batch, Credit
from protocol.settings import RunSettings
from tests.unit.broker import test_core_machine
from tests.unit.broker.test_core_machine import BrokerMachine
from tests.unit.broker.world import World
from tests.unit.broker.world_runs import runs


class DrainingWorld(World):
    """While the broker groups its commits, events are only taken; a Tick settles them before they are committed."""

    unsettled = False

    def _decide(self, event: Event) -> list[Effect]:
        if not self.holding or isinstance(event, Tick):
            self.unsettled = False
            return super()._decide(event)
        self.unsettled = True
        with patch.object(self.core, "handle", lambda event, now: self.core.take(event)):
            return super()._decide(event)

    def _commit(self) -> None:
        if self.unsettled:
            self.unsettled = False
            super()._decide(Tick())
        super()._commit()


class DrainingMachine(BrokerMachine):
    """The same faults in any order, and the same must hold."""

    @initialize(run=runs(), alone=st.booleans(), joined=st.booleans())
    def start(self, run: tuple[RunSettings, int], alone: bool, joined: bool) -> None:
        with patch.object(test_core_machine, "World", DrainingWorld):
            super().start(run, alone, joined)


TestDrainingMachine = DrainingMachine.TestCase
TestDrainingMachine.settings = settings(
    max_examples=40, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_what_several_credits_ask_for_is_cut_once_all_of_them_are_heard() -> None:
    world = World(RunSettings(policy="uniform", batch_size=4, prefetch_batches=2), n=400)
    world.rejoin_all()
    taken = [
        effect
        for limit in (1, 3, 7)
        for effect in world.core.take(MessageReceived("boss-0", Credit(limit=limit, yielded=-1)))
    ]
    assert taken == []
    settled = world.core.handle(Tick(), world.now)
    assert [e.message.step for e in settled if isinstance(e, Send) and isinstance(e.message, Batch)] == list(range(8))
