"""The broker's port for whoever looks at instances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from broker.hub import Conversation, Hub
from broker.previews import EVERY_S, Previews
from protocol.channels import ZmqRoleChannel
from protocol.codec import decode, encode
from protocol.messages import AnyMessage, Credit, Envelope, Preview, PreviewReply
from protocol.stream import Stream

DEADLINE_MS = 20_000


class Site:
    """A broker's port with one page at it."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.previews = Previews(self.context, "tcp://127.0.0.1:0", None)
        self.page = ZmqRoleChannel(self.context, self.previews.channel.address)
        self.hub = Hub()

    def join(self, name: str, *, previews: bool = True) -> None:
        line = name.encode()
        self.hub.by_name[name] = Conversation(name, "1", line, "s", Stream(), 0.0, 0.0, previews=previews)

    def ask(self, message: AnyMessage, now: float) -> list[tuple[bytes, AnyMessage]]:
        """What the broker sends on when the page has said this."""
        assert self.page.socket.poll(DEADLINE_MS, zmq.POLLOUT)
        assert self.page.send(encode(Envelope(seq=0, span=1, ack=0, message=message)))
        assert self.previews.channel.socket.poll(DEADLINE_MS)
        return [(line, envelope.message) for line, envelope in self.previews.ask(self.hub, None, now)]

    def heard(self) -> AnyMessage:
        assert self.page.socket.poll(DEADLINE_MS)
        frames = self.page.receive()
        assert frames is not None
        return decode(frames).message

    def close(self) -> None:
        self.page.close()
        self.previews.channel.close()
        self.context.destroy(linger=0)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def number_of(sent: list[tuple[bytes, AnyMessage]]) -> int:
    ((_, message),) = sent
    assert isinstance(message, Preview)
    return message.number


def test_a_wish_travels_to_an_assistant_and_its_answer_back(site: Site) -> None:
    site.join("assistant-0")
    sent = site.ask(Preview(number=41, instances=5), 0.0)
    assert sent[0][0] == b"assistant-0" and sent[0][1].instances == 5  # type: ignore[union-attr]
    assert site.previews.answer("assistant-0", PreviewReply(number=number_of(sent), assistant="liar", known=3))
    answer = site.heard()
    assert isinstance(answer, PreviewReply)
    assert (answer.number, answer.known, answer.assistant) == (41, 3, "assistant-0")


def test_nobody_is_asked_who_does_not_show_instances(site: Site) -> None:
    site.join("boss-0", previews=False)
    assert site.ask(Preview(number=1), 0.0) == []


def test_wishes_are_passed_on_once_a_second_and_to_one_assistant_after_the_other(site: Site) -> None:
    for name in ("assistant-0", "assistant-1"):
        site.join(name)
    times = [0.0, 0.4 * EVERY_S, EVERY_S, 1.9 * EVERY_S, 2.0 * EVERY_S]
    asked = [site.ask(Preview(number=i), now) for i, now in enumerate(times)]
    assert [len(sent) for sent in asked] == [1, 0, 1, 0, 1]
    names = [sent[0][0] for sent in asked if sent]
    assert names[0] != names[1] and names[0] == names[2]


def test_answers_that_nobody_asked_for_go_nowhere(site: Site) -> None:
    site.join("assistant-0")
    assert not site.previews.answer("assistant-0", PreviewReply(number=1, assistant="assistant-0"))
    number = number_of(site.ask(Preview(number=9), 0.0))
    assert not site.previews.answer("assistant-1", PreviewReply(number=number, assistant="assistant-1"))
    assert not site.previews.answer("assistant-0", PreviewReply(number=number + 1, assistant="assistant-0"))
    assert site.previews.answer("assistant-0", PreviewReply(number=number, assistant="assistant-0"))
    assert not site.previews.answer("assistant-0", PreviewReply(number=number, assistant="assistant-0"))
    assert site.heard().number == 9  # type: ignore[union-attr]
    assert site.page.receive() is None


@pytest.mark.parametrize("said", [Credit(limit=1), PreviewReply(number=0, assistant="a")])
def test_nothing_else_is_listened_to_there(site: Site, said: Any) -> None:
    site.join("assistant-0")
    assert site.ask(said, 0.0) == []
    assert site.hub.refused == {"bad_message": 1} and site.hub.refused_from == {"strangers": 1}


def test_garbage_is_refused_and_counted(site: Site) -> None:
    assert site.page.socket.poll(DEADLINE_MS, zmq.POLLOUT)
    site.page.send([b"\xc1garbage"])
    assert site.previews.channel.socket.poll(DEADLINE_MS)
    assert site.previews.ask(site.hub, None, 0.0) == [] and sum(site.hub.refused.values()) == 1


def test_a_flood_takes_a_bounded_part_of_an_iteration(site: Site) -> None:
    site.join("assistant-0")
    body = encode(Envelope(seq=0, span=1, ack=0, message=Preview(number=1)))
    assert site.page.socket.poll(DEADLINE_MS, zmq.POLLOUT)
    for _ in range(100):
        site.page.send(body)
    site.page.send([b"last"])
    sent, looks = 0, 0
    while not site.hub.refused:
        assert site.previews.channel.socket.poll(DEADLINE_MS)
        sent, looks = sent + len(site.previews.ask(site.hub, None, 0.0)), looks + 1
    assert sent == 1 and looks > 5
