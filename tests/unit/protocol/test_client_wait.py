"""Who was asked to wait and is answered no more looks for a broker in vain; nobody refuses it."""

from __future__ import annotations

import logging

import pytest

from protocol.channels import MemoryHub
from protocol.client import ConnectSettings, RoleClient
from protocol.codec import encode
from protocol.errors import BrokerUnreachable, PeerRefused
from protocol.messages import Envelope, Heartbeat, Hello, Reject, Welcome
from protocol.settings import RunSettings

HELLO = Hello(role="assistant", name="assistant-0", incarnation="1", dataset_id="", n=0)
WAIT = encode(Envelope(seq=0, span=1, ack=0, message=Reject(code="wait", reason="no Boss has started the run yet")))
TAKEN = encode(Envelope(seq=0, span=1, ack=0, message=Reject(code="taken", reason="the name is taken")))
RESUME = encode(Envelope(seq=0, span=1, ack=0, message=Reject(code="resume", reason="say Hello first")))
HEARTBEAT = encode(Envelope(seq=0, span=1, ack=0, message=Heartbeat(seq=0)))
WELCOME = encode(
    Envelope(
        seq=0,
        span=1,
        ack=0,
        message=Welcome(run_id="run", stream="s", settings=RunSettings(), position=0, index=0, dataset_id="d", n=9),
    )
)


class Site:
    """A client whose clock and broker are the test's."""

    def __init__(self) -> None:
        self.now, self.hub = 100.0, MemoryHub()
        settings = ConnectSettings(broker="inproc://broker", connect_timeout_s=5.0)
        self.client = RoleClient(HELLO, settings, clock=lambda: self.now, channel=self.hub.connect())

    def live(self, seconds: int, answer: list[bytes] | None) -> None:
        """So long with this answer to every Hello; None for silence."""
        for _ in range(seconds * 10):
            self.now += 0.1
            while (received := self.hub.receive()) is not None:
                if answer is not None:
                    self.hub.send(received[0], answer)
            self.client.poll(0.0)


def test_a_role_whose_broker_is_gone_says_that_nobody_answers() -> None:
    site = Site()
    site.live(20, WAIT)
    with pytest.raises(BrokerUnreachable, match="no broker answers"):
        site.live(20, None)
    site.client.close()


def test_who_takes_the_place_of_a_killed_role_says_nothing_of_it_until_that_must_be_another_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The broker misses a killed one after three seconds, and lets the next one in."""
    site = Site()
    with caplog.at_level(logging.INFO, "autoassist.client"):
        site.live(4, TAKEN)
        assert caplog.text == ""
        site.live(1, TAKEN)
        assert "the name is taken" in caplog.text
    site.client.close()


def test_what_a_broker_has_said_before_it_ended_is_not_said_again(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    site.live(3, TAKEN)
    with caplog.at_level(logging.INFO, "autoassist.client"):
        site.live(2, None)
        assert "no answer yet" in caplog.text and "the name is taken" not in caplog.text
    site.client.close()


def test_who_has_to_say_hello_again_does_not_say_at_once_that_nobody_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    site.live(1, WELCOME)
    site.live(2, HEARTBEAT)
    with caplog.at_level(logging.INFO, "autoassist.client"):
        site.live(1, RESUME)
        assert "no answer yet" not in caplog.text
        site.live(2, RESUME)
        assert "no answer yet" in caplog.text
    site.client.close()


def test_a_role_that_is_asked_to_wait_for_its_name_is_refused_in_the_end() -> None:
    site = Site()
    with pytest.raises(PeerRefused, match="the name is taken"):
        site.live(20, TAKEN)
    site.client.close()
