"""``autoassist doctor --broker``: what stands between a role and a broker is found without joining the run."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoassist.doctor.connection import broker as look
from autoassist.doctor.finding import Finding
from autoassist.keys_command import make_keys
from tests.contract.test_keys import serving, stranger

TIMEOUT_S = 20.0


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A directory of keys."""
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def found(address: str, keys: Path | None = None, timeout_s: float = TIMEOUT_S) -> Finding:
    (finding,) = look(address, keys, timeout_s)
    return finding


def test_a_broker_is_found_and_nobody_has_joined(tmp_path: Path) -> None:
    with serving(tmp_path / "run", None) as broker:
        finding = found(broker.address)
        assert finding.level == "ok" and "answers after" in finding.found, finding
        assert broker.core.state.run is None and not broker.core.state.members
        broker.hub.count_strangers(math.inf)
        assert broker.hub.refused == {"no_hello": 1}


def test_a_broker_with_keys_is_found_with_them_and_says_what_is_wrong_without(tmp_path: Path, keys: Path) -> None:
    with serving(tmp_path / "run", keys) as broker:
        for place in (keys, keys / "boss.key", keys / "assistant.key"):
            assert found(broker.address, place).level == "ok", place
        without = found(broker.address, None, 3.0)
        assert without.level == "error" and "key" in without.found + without.remedy
        unknown = found(broker.address, stranger(keys))
        assert unknown.level == "error" and "does not allow the key stranger" in unknown.found
        assert "keys add" in unknown.remedy


def test_a_key_that_is_not_there_is_no_reason_to_look_for_the_broker(tmp_path: Path) -> None:
    finding = found("tcp://127.0.0.1:9", tmp_path / "nowhere")
    assert finding.level == "note" and "for want of a key" in finding.found


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody who listens, and is no broker."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_who_listens_and_is_no_broker_is_told_from_nobody(listener: socket.socket) -> None:
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    lines: list[socket.socket] = []
    accepting = threading.Thread(target=lambda: lines.append(listener.accept()[0]))
    accepting.start()
    finding = found(address, timeout_s=0.5)
    accepting.join(TIMEOUT_S)
    for line in lines:
        line.close()
    assert finding.level == "error" and "somebody listens, and does not speak ZeroMQ" in finding.found
    listener.close()
    finding = found(address)
    assert "nobody listens" in finding.found and "start the broker" in finding.remedy


def test_a_name_that_nobody_has_is_told() -> None:
    finding = found("tcp://no-such-host.invalid:5555")
    assert finding.level == "error" and "no-such-host.invalid" in finding.found and "name" in finding.remedy
