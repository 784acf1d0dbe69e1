"""The transport benchmark measures what it says, and writes down all that it measures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq

from benchmarks import transport
from benchmarks.transport import Measured, TransportBenchmark, measure, rows_of, write
from benchmarks.transport_peers import _router_loop
from benchmarks.transport_roles import ScriptedRoles

NAMED_BY_THE_GOALS = {"ratio_to_relay", "ratio_to_router", "cycles_per_s", "p99_ms", "p99_9_ms", "ratio_keyed"}


@contextmanager
def bare_loop(batch_size: int) -> Iterator[str]:
    """The ROUTER loop, in a thread."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        thread = threading.Thread(target=_router_loop, args=(socket, batch_size))
        thread.start()
        yield f"tcp://127.0.0.1:{port}"
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("pace", [0, 2000])
def test_a_cycle_is_over_when_the_next_batch_and_the_record_are_there(pace: int) -> None:
    with bare_loop(8) as address:
        roles = ScriptedRoles(address, cycles=60, batch_size=8, credit=4, pace=pace)
        with closing(roles):
            assert roles.run() > 0
            assert 60 - 8 <= len(roles.latencies_s) <= 60
            assert min(roles.latencies_s) > 0
            assert roles.learned_through >= 60 - 8


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Those of a run in which nothing was measured."""
    measured = Measured(cycles_per_s=10.0, cpu_us=5.0, latencies_ms=[1.0, 2.0])
    for name in ("through_broker", "through_router"):
        monkeypatch.setattr(transport, name, lambda *_, **__: measured)
    for name in ("through_relay", "through_queue", "through_channel", "cpu_ms_per_step", "start_time_s"):
        monkeypatch.setattr(transport, name, lambda *_: 2.0)
    monkeypatch.setattr(transport, "_make_keys", Path)
    return measure(TransportBenchmark(repetitions=2))


def test_every_figure_stands_in_the_table_with_all_its_repetitions(figures: dict[str, list[float]]) -> None:
    assert {len(values) for values in figures.values()} == {2}
    assert len(rows_of(figures, TransportBenchmark())) == len(figures) - 2  # two say only at which pace


def test_the_file_has_the_medians_by_name(figures: dict[str, list[float]], tmp_path: Path) -> None:
    write(tmp_path / "figures.json", figures, TransportBenchmark())
    written = msgspec.json.decode((tmp_path / "figures.json").read_bytes())
    assert written.keys() >= NAMED_BY_THE_GOALS | {"machine", "settings", "values"}
    assert written["ratio_to_relay"] == 5.0
    assert written["values"]["cycles_per_s"] == [10.0, 10.0]
