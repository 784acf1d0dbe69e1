"""A broker with keys, on real sockets: who may connect, and as what."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from rich.text import Text

from autoassist import live
from autoassist.keys_command import add_key, make_keys, remove_key
from autoassist.top import samples
from broker.loop import Broker
from broker.settings import BrokerSettings
from protocol.client import ConnectSettings, RoleClient, new_incarnation
from protocol.errors import BrokerUnreachable, PeerRefused, SettingError
from protocol.messages import Hello, Welcome
from protocol.security import Allowed, Key, open_key, read_allow_list, write_allow_list
from protocol.session import SessionTimes
from protocol.settings import RunSettings
from protocol.signals import StopSignal

DEADLINE_S = 20.0


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A directory of keys."""
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


@contextmanager
def serving(run_dir: Path, keys: Path | None, port: int = 0) -> Iterator[Broker]:
    """A broker in a thread of the test."""
    made: queue.SimpleQueue[Broker] = queue.SimpleQueue()

    def serve() -> None:
        broker = Broker(BrokerSettings(run_dir=run_dir, port=port, drain_s=0.1, keys=keys))
        made.put(broker)
        broker.run(stop)

    with StopSignal() as stop:
        thread = threading.Thread(target=serve, name="broker")
        thread.start()
        try:
            yield made.get(timeout=DEADLINE_S)
        finally:
            stop.request()
            thread.join(DEADLINE_S)
    assert not thread.is_alive()


@pytest.fixture
def broker(tmp_path: Path, keys: Path) -> Iterator[Broker]:
    """A broker with these keys."""
    with serving(tmp_path / "run", keys) as made:
        yield made


def hello_of(role: str) -> Hello:
    settings = RunSettings(policy="uniform", batch_size=4, epochs=2) if role == "boss" else None
    about = {"name": f"{role}-0", "incarnation": new_incarnation(), "dataset_id": "d", "n": 4096}
    return Hello(role=role, settings=settings, **about)  # type: ignore[arg-type]


def client_of(broker: Broker, role: str, keys: Path | None) -> RoleClient:
    connect = ConnectSettings(
        broker=broker.address, connect_timeout_s=DEADLINE_S, keys=str(keys) if keys is not None else None
    )
    return RoleClient(hello_of(role), connect, times=SessionTimes(heartbeat_s=0.1))


def listen(client: RoleClient, is_enough: Callable[[list[object]], bool] = lambda _: False) -> None:
    """Poll until it is enough; PeerRefused may come before."""
    deadline, heard = time.monotonic() + DEADLINE_S, []
    while time.monotonic() < deadline:
        heard += client.poll(0.1)
        if is_enough(heard):
            return
    raise AssertionError(f"heard {heard}")


def is_welcomed(heard: list[object]) -> bool:
    return any(isinstance(message, Welcome) for message in heard)


def refusal(broker: Broker, role: str, keys: Path | None) -> str:
    """What a role is told that is not let in."""
    with closing(client_of(broker, role, keys)) as client, pytest.raises(PeerRefused) as refused:
        listen(client, is_welcomed)
    return str(refused.value)


def stranger(keys: Path) -> Path:
    """A key that knows the broker's, and that the broker does not know."""
    path = keys.parent / "stranger.key"
    Key.make("stranger", Key.read(keys / "broker.key").public).write(path)
    return path


def test_roles_with_their_keys_are_let_in(broker: Broker, keys: Path) -> None:
    with closing(client_of(broker, "boss", keys)) as boss, closing(client_of(broker, "assistant", keys)) as assistant:
        listen(boss, is_welcomed)
        listen(assistant, is_welcomed)
    assert not broker.hub.refused


def test_an_unknown_key_is_refused(broker: Broker, keys: Path) -> None:
    assert "the broker does not allow the key stranger here" in refusal(broker, "boss", stranger(keys))
    assert broker.hub.refused == {"unknown_key": 1} and broker.hub.refused_from == {"strangers": 1}


def kept_out(broker: Broker, keys: Path | None, caplog: pytest.LogCaptureFixture) -> str:
    """What a Boss is told that shares no way of speaking with the broker; which end notices first is chance."""
    connect = ConnectSettings(
        broker=broker.address, connect_timeout_s=5.0, keys=str(keys) if keys is not None else None
    )
    with (
        closing(RoleClient(hello_of("boss"), connect)) as client,
        pytest.raises((PeerRefused, BrokerUnreachable)) as refused,
    ):
        listen(client, is_welcomed)
    assert broker.core.state.run is None
    return f"{refused.value}\n{caplog.text}"


def test_who_has_no_key_is_kept_out_and_told_so(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    assert "wants a key" in kept_out(broker, None, caplog)


def test_an_assistant_s_key_cannot_say_hello_as_boss(broker: Broker, keys: Path) -> None:
    said = refusal(broker, "boss", keys / "assistant.key")
    assert "boss-0 speaks as boss, and the key assistant is for assistant" in said
    assert "give --keys with a key for the role boss" in said
    assert broker.core.state.run is None and broker.hub.refused == {"key": 1}


def test_a_boss_s_key_cannot_say_hello_as_assistant(broker: Broker, keys: Path) -> None:
    assert "assistant-0 speaks as assistant" in refusal(broker, "assistant", keys / "boss.key")


def test_a_monitor_s_key_cannot_speak(broker: Broker, keys: Path) -> None:
    assert "the broker does not allow the key monitor here" in refusal(broker, "boss", keys / "monitor.key")
    assert broker.hub.refused == {"key": 1}


def test_a_key_for_two_roles_may_be_either(broker: Broker, keys: Path) -> None:
    path = add_key(keys, "both", ["boss", "assistant"])
    with closing(client_of(broker, "boss", path)) as boss, closing(client_of(broker, "assistant", path)) as assistant:
        listen(boss, is_welcomed)
        listen(assistant, is_welcomed)


def test_a_revoked_key_is_refused_at_once(broker: Broker, keys: Path, tmp_path: Path) -> None:
    kept = tmp_path / "copy.key"
    kept.touch(mode=0o600)
    kept.write_bytes((keys / "boss.key").read_bytes())
    with closing(client_of(broker, "boss", kept)) as client:
        listen(client, is_welcomed)
    remove_key(keys, "boss")
    assert "the broker does not allow the key boss here" in refusal(broker, "boss", kept)


def test_a_key_that_is_revoked_while_its_holder_is_connected_speaks_no_more(broker: Broker, keys: Path) -> None:
    with closing(client_of(broker, "boss", keys)) as client:
        listen(client, is_welcomed)
        remove_key(keys, "boss")
        with pytest.raises(PeerRefused, match="is not, or no longer, on the broker's allow-list"):
            listen(client)
        assert not broker.hub.by_line


def test_a_key_that_loses_a_role_while_its_holder_is_connected_speaks_no_more(broker: Broker, keys: Path) -> None:
    with closing(client_of(broker, "boss", keys)) as client:
        listen(client, is_welcomed)
        allowed = read_allow_list(keys / "allowed.txt").values()
        write_allow_list(keys / "allowed.txt", [Allowed(one.name, one.public, ("assistant",)) for one in allowed])
        with pytest.raises(PeerRefused, match="boss-0 speaks as boss, and the key boss is for assistant"):
            listen(client)


def test_a_key_that_is_added_is_let_in_at_once(broker: Broker, keys: Path) -> None:
    with closing(client_of(broker, "boss", add_key(keys, "second", ["boss"]))) as client:
        listen(client, is_welcomed)


def test_a_role_with_a_key_does_not_speak_to_a_broker_without(
    tmp_path: Path, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path / "open", None) as broker:
        assert "was started without" in kept_out(broker, keys, caplog)


def test_a_role_does_not_speak_to_a_broker_of_another_key(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_keys(tmp_path / "others")
    assert "it is not the broker that the key boss names" in kept_out(broker, tmp_path / "others", caplog)


def test_a_role_comes_back_with_its_key_after_the_broker_was_restarted(tmp_path: Path, keys: Path) -> None:
    with serving(tmp_path / "run", keys) as broker:
        client = client_of(broker, "boss", keys)
        listen(client, is_welcomed)
        port = int(broker.address.rpartition(":")[2])
    with closing(client), serving(tmp_path / "next", keys, port):
        client.session.hello = hello_of("boss")  # it would wait for its own run
        listen(client, is_welcomed)


# Statistics


def first_sample(broker: Broker, key: Key | None, timeout_s: float = DEADLINE_S) -> object:
    with StopSignal() as stop, closing(samples(broker.statistics_address, timeout_s, stop, key)) as found:
        return next(found)


def test_a_monitor_s_key_hears_the_statistics(broker: Broker, keys: Path) -> None:
    assert first_sample(broker, open_key(keys, "monitor"))


def test_the_live_view_of_a_run_hears_them_too(broker: Broker, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: queue.SimpleQueue[object] = queue.SimpleQueue()

    def drawn(statistics: object) -> Text:
        heard.put(statistics)
        return Text("")

    monkeypatch.setattr(live, "render", drawn)
    view = live.LiveView(enabled=True, keys=keys)
    view.start(broker.statistics_address)
    try:
        assert heard.get(timeout=DEADLINE_S) is None
        assert heard.get(timeout=DEADLINE_S) is not None
    finally:
        view.stop()


def test_nobody_else_hears_the_statistics(broker: Broker, keys: Path) -> None:
    for key in (open_key(stranger(keys), "monitor"), open_key(keys, "assistant")):
        with pytest.raises(PeerRefused, match=f"no statistics from tcp://.*does not allow the key {key.name}"):
            first_sample(broker, key)
    with pytest.raises((PeerRefused, BrokerUnreachable), match="wants a key"):
        first_sample(broker, None)


# The broker's own


def test_a_broker_beyond_loopback_wants_keys_or_the_word_insecure(tmp_path: Path, keys: Path) -> None:
    with pytest.raises(SettingError, match=r"host=0\.0\.0\.0: is not loopback; give --keys DIR .*, or --insecure"):
        BrokerSettings(run_dir=tmp_path, host="0.0.0.0")
    assert BrokerSettings(run_dir=tmp_path, host="0.0.0.0", keys=keys).keys == keys
    with pytest.raises(SettingError, match="insecure=True: contradicts --keys"):
        BrokerSettings(run_dir=tmp_path, keys=keys, insecure=True)


def test_a_broker_without_its_key_does_not_start_and_leaves_nothing(tmp_path: Path) -> None:
    settings = BrokerSettings(run_dir=tmp_path / "run", port=0, keys=tmp_path)
    with pytest.raises(SettingError, match=r"broker\.key: No such file.*autoassist keys init"):
        Broker(settings)
    assert not (tmp_path / "run").exists()
