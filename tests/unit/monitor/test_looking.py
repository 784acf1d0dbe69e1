"""Instances on the page: asked for through the broker, shown as far as they are there."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq
from PIL import Image
from starlette.testclient import TestClient

from autoassist.monitor.app import make_app
from autoassist.monitor.board import MOST_PICTURES, Board
from autoassist.monitor.gate import Admission
from autoassist.monitor.looking import EVERY_S, PATIENCE_S, Looking, has_picture, png, shown
from broker.hub import Conversation, Hub
from broker.previews import Previews
from protocol.messages import Preview, PreviewReply, Shown
from protocol.statistics import PeerStatistics, RunStatistics
from protocol.stream import Stream

DEADLINE_MS = 20_000


def one(instance_id: int = 5, **changes: Any) -> Shown:
    losses = np.array([2.0, 0.5], np.float32)
    given = {"pixels": bytes(range(6)), "height": 2, "width": 3, "label": 4}
    return Shown(id=instance_id, trained=2, keep_probability=0.25, losses=losses, **{**given, **changes})


def reply(*instances: Shown, number: int = 1) -> PreviewReply:
    edges, counts = np.array([0.0, 1.0, 2.0], np.float32), np.array([3, 1])
    return PreviewReply(
        number=number, assistant="assistant-0", groups={"kept": list(instances)}, known=4, set_aside=1,
        loss_edges=edges, loss_counts=counts, keep_counts=np.array([0, 4]),
    )  # fmt: skip


def run(port: int = 9, *, previews: bool = True) -> RunStatistics:
    peer = PeerStatistics(name="assistant-0", role="assistant", silent_s=0.0, previews=previews)
    return RunStatistics(run_id="r", policy="autoassist", preview_port=port, peers=[peer])


def told(board: Board) -> dict[str, Any]:
    found = json.loads(json.dumps(board.news(0)["instances"]))
    assert isinstance(found, dict)
    return found


def test_what_an_assistant_shows_is_told_without_its_pixels() -> None:
    board = Board()
    board.show(run())
    board.show_instances(reply(one(), one(6, pixels=b"", text="a sentence", label=-1)), "")
    found = told(board)
    assert (found["known"], found["set_aside"], found["assistant"]) == (4, 1, "assistant-0")
    assert (found["loss_edges"], found["loss_counts"], found["keep_counts"]) == ([0.0, 1.0, 2.0], [3, 1], [0, 4])
    first, second = found["groups"]["kept"]
    assert first == {
        **{"id": 5, "label": 4, "trained": 2, "keep": 0.25, "losses": [2.0, 0.5], "text": "", "picture": True},
    }
    assert (second["label"], second["text"], second["picture"]) == (None, "a sentence", False)


def test_instances_are_told_once_and_again_when_they_change() -> None:
    board = Board()
    board.show(run())
    board.show_instances(reply(one()), "")
    assert board.news(board.number)["instances"] is not None
    board.show(run())
    assert board.news(board.number)["instances"] is None
    board.show_instances(None, "No Assistant answers")
    assert board.news(board.number)["instances"]["trouble"] == "No Assistant answers"
    assert told(board)["groups"], "what was seen before stays"


def test_pictures_are_served_of_the_run_and_the_instances_that_were_told_of() -> None:
    board = Board()
    browser = TestClient(make_app(board, Admission()), base_url="http://127.0.0.1")
    assert browser.get("/pictures/r/5.png").status_code == 404
    board.show(run())
    board.show_instances(reply(one(), one(6, pixels=b"")), "")
    answer = browser.get("/pictures/r/5.png")
    assert answer.headers["content-type"] == "image/png" and "private" in answer.headers["cache-control"]
    image = Image.open(io.BytesIO(answer.content))
    assert (image.mode, image.size, list(image.tobytes())) == ("L", (3, 2), list(range(6)))
    for path in ("/pictures/other/5.png", "/pictures/r/6.png", "/pictures/r/7.png", "/pictures/r/-5.png"):
        assert browser.get(path).status_code == 404, path


def test_another_run_does_not_show_the_pictures_of_the_one_before() -> None:
    board = Board()
    board.show(run())
    board.show_instances(reply(one()), "")
    other = run()
    other.run_id = "s"
    board.show(other)
    assert board.picture("s", 5) is None and board.picture("r", 5) is None and "groups" not in told(board)


def test_pictures_do_not_fill_the_memory() -> None:
    board = Board()
    board.show(run())
    for first in range(0, 4 * MOST_PICTURES, 30):
        board.show_instances(reply(*(one(i) for i in range(first, first + 30))), "")
    there = [i for i in range(4 * MOST_PICTURES + 30) if board.picture("r", i)]
    assert len(there) == MOST_PICTURES and board.picture("r", 4 * MOST_PICTURES - 1) is not None


def test_colour_is_drawn_and_pixels_that_do_not_fit_are_not() -> None:
    colour = one(pixels=bytes(18))
    assert has_picture(colour) and Image.open(io.BytesIO(png(colour))).mode == "RGB"
    for wrong in (one(height=0), one(height=3), one(pixels=b"x"), one(width=1 << 40)):
        assert not has_picture(wrong) and not shown(reply(wrong))["groups"]["kept"][0]["picture"]


class Site:
    """A broker's port, and a page that looks through it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.previews = Previews(self.context, "tcp://127.0.0.1:0", None)
        self.looking = Looking(self.context, "tcp://127.0.0.1", None, lambda: self.now)
        self.hub = Hub()
        self.hub.by_name["assistant-0"] = Conversation(
            "assistant-0", "1", b"line", "s", Stream(), 0.0, 0.0, previews=True
        )

    def asked(self) -> list[Preview]:
        """What comes out of the broker within the deadline of a connection."""
        assert self.previews.channel.socket.poll(DEADLINE_MS)
        sent = [envelope.message for _, envelope in self.previews.ask(self.hub, None, self.now)]
        return [message for message in sent if isinstance(message, Preview)]

    def connect(self) -> None:
        """Until the line is there, without a wish: whether the first one came through would be chance."""
        self.looking._next = math.inf
        self.looking.turn(run(self.previews.port))
        channel = self.looking._channel
        assert channel is not None and channel.socket.poll(DEADLINE_MS, zmq.POLLOUT)
        self.looking._next = self.now

    def close(self) -> None:
        self.looking.close()
        self.previews.channel.close()
        self.context.destroy(linger=0)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def test_the_page_asks_again_and_again_but_not_too_often_and_gets_its_answer(site: Site) -> None:
    site.connect()
    statistics = run(site.previews.port)
    assert site.looking.turn(statistics) is None
    (wish,) = site.asked()
    assert site.previews.answer("assistant-0", reply(one(), number=wish.number))
    channel = site.looking._channel
    assert channel is not None and channel.socket.poll(DEADLINE_MS)
    site.now += 0.5 * EVERY_S
    answer = site.looking.turn(statistics)
    assert answer is not None and answer.groups["kept"][0].id == 5
    assert not site.previews.channel.socket.poll(0), "the next wish has time"
    site.now += EVERY_S
    site.looking.turn(statistics)
    assert len(site.asked()) == 1


def test_the_page_says_why_there_is_nothing_to_see(site: Site) -> None:
    assert "passes on no instances" in site.looking.trouble(run(0))
    assert site.looking.turn(run(0)) is None
    assert "No Assistant that shows instances" in site.looking.trouble(run(previews=False))
    statistics = run(site.previews.port)
    site.looking.turn(statistics)
    assert site.looking.trouble(statistics) == ""
    site.now += PATIENCE_S + 1.0
    assert "No Assistant answers" in site.looking.trouble(statistics)


def test_garbage_from_the_broker_is_not_shown_and_ends_the_line(site: Site) -> None:
    site.connect()
    site.looking.turn(run(site.previews.port))
    assert site.previews.channel.socket.poll(DEADLINE_MS)
    received = site.previews.channel.receive()
    assert received is not None
    assert site.previews.channel.send(received[0], [b"\xc1garbage"])
    channel = site.looking._channel
    assert channel is not None and channel.socket.poll(DEADLINE_MS)
    assert site.looking.turn(run(site.previews.port)) is None and site.looking._channel is None
