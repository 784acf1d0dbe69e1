"""Instances to look at, from a page through a real broker to an Assistant and back, with keys and without."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import zmq

from autoassist.keys_command import make_keys, remove_key
from broker.loop import Broker
from broker.settings import BrokerSettings
from protocol.channels import ZmqRoleChannel
from protocol.client import RoleClient
from protocol.codec import decode, encode
from protocol.errors import PeerRefused
from protocol.messages import Envelope, Preview, PreviewReply, Welcome
from protocol.security import open_key
from tests.contract.test_keys import DEADLINE_S, client_of, serving

Looked = Callable[[], PreviewReply | None]


class Site:
    """A broker with a Boss and an Assistant that shows instances; one thread plays both of them and the page."""

    def __init__(self, broker: Broker, keys: Path | None) -> None:
        self.broker, self.keys = broker, keys
        self.boss = client_of(broker, "boss", keys)
        self.until(self.boss, Welcome)
        self.assistant = client_of(broker, "assistant", keys)
        self.assistant.session.update_hello(previews=True)
        self.until(self.assistant, Welcome)

    @staticmethod
    def until(client: RoleClient, kind: type) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if any(isinstance(message, kind) for message in client.poll(0.05)):
                return
        raise AssertionError(f"no {kind.__name__} came")

    @contextmanager
    def page(self, role: str = "monitor") -> Iterator[ZmqRoleChannel]:
        """A line to the broker's port of previews."""
        assert self.broker.previews is not None
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        key = open_key(self.keys, role) if self.keys is not None else None
        try:
            with closing(ZmqRoleChannel(context, self.broker.previews.channel.address, key)) as channel:
                yield channel
        finally:
            context.term()

    def look(self, page: ZmqRoleChannel, is_enough: Callable[[], bool] = lambda: False) -> PreviewReply | None:
        """Ask until there is an answer, or it is enough."""
        wish = encode(Envelope(seq=0, span=1, ack=0, message=Preview(number=7)))
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and not is_enough():
            page.send(wish)
            for message in self.assistant.poll(0.05):
                if isinstance(message, Preview):
                    self.assistant.send(PreviewReply(number=message.number, assistant="", known=5))
            self.boss.poll(0.0)
            if (frames := page.receive()) is not None:
                answer = decode(frames).message
                assert isinstance(answer, PreviewReply)
                return answer
        return None

    def close(self) -> None:
        self.assistant.close()
        self.boss.close()


@contextmanager
def at_work(run_dir: Path, keys: Path | None) -> Iterator[Site]:
    with serving(run_dir, keys) as broker, closing(Site(broker, keys)) as site:
        yield site


@pytest.mark.parametrize("with_keys", [False, True])
def test_a_page_gets_an_assistant_s_answer_through_the_broker(tmp_path: Path, with_keys: bool) -> None:
    keys = tmp_path / "keys" if with_keys else None
    if keys is not None:
        make_keys(keys)
    with at_work(tmp_path / "run", keys) as site, site.page() as page:
        answer = site.look(page)
        assert answer is not None and (answer.number, answer.assistant, answer.known) == (7, "assistant-0", 5)
        refused = site.broker.hub.refused  # a line that was slow may have had to say Hello again
        assert not {"key", "unknown_key", "bad_message", "unasked"} & set(refused), refused


def test_only_a_monitor_s_key_may_ask_and_only_while_it_is_allowed(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    make_keys(keys)
    with at_work(tmp_path / "run", keys) as site:
        with site.page("boss") as page, pytest.raises(PeerRefused, match="does not allow the key boss"):
            site.look(page)
        with site.page() as page:
            assert site.look(page) is not None
            before = site.broker.hub.refused.get("key", 0)
            remove_key(keys, "monitor")
            assert site.look(page, lambda: site.broker.hub.refused.get("key", 0) > before + 1) is None


def test_beyond_loopback_nobody_may_ask_without_keys(tmp_path: Path) -> None:
    assert not BrokerSettings(run_dir=tmp_path, host="0.0.0.0", insecure=True).shows_instances
    assert BrokerSettings(run_dir=tmp_path, host="0.0.0.0", keys=tmp_path).shows_instances
    assert BrokerSettings(run_dir=tmp_path, host="::1").shows_instances
