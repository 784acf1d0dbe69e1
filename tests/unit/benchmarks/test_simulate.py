"""The simulation drives the real cores: what it says of a broker follows from its settings and its seed alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tyro

from assistant.core import AssistantCore
from benchmarks import simulate_measure
from benchmarks.simulate import all_pairs, pair_of, simulate
from benchmarks.simulate_costs import NAMES, Costs, Work, size_of
from benchmarks.simulate_figures import Figures, Pair, SimulateBenchmark
from benchmarks.simulate_measure import RealEngine, Timed, fitted
from benchmarks.simulate_roles import LightCore, RoleTimes, Steady
from benchmarks.simulate_tables import BEGIN, END, cell_rows, limit_rows, most_ranks, put_into, tables, write
from benchmarks.simulate_world import ENDLESS, CountedEngine, Engine, Network, Said, World
from broker.waiting import GATHER_S
from protocol.codec import encode
from protocol.errors import SettingError, UserError
from protocol.messages import (
    AnyMessage,
    Batch,
    Envelope,
    Heartbeat,
    LossRecord,
    LossReport,
    RecordsDropped,
    Segment,
    Selection,
    Window,
)
from protocol.settings import RunSettings

FREE = Costs(**dict.fromkeys(NAMES, 0.0))
SHORT = SimulateBenchmark(ranks=(2,), assistants=(1,), step_ms=(10.0,), steps=30, jobs=1)


def world(engine: Engine, ranks: int = 2, assistants: int = 2, step_s: float = 0.1) -> World:
    settings = RunSettings(world_size=ranks, batch_size=8, boss_instances=ENDLESS)
    return World(settings, assistants, engine, step_s=step_s, times=RoleTimes(), network=Network(), seed=1)


def test_one_seed_gives_the_same_figures_each_time_and_another_one_others() -> None:
    assert simulate(SHORT, 2, 1, 10.0) == simulate(SHORT, 2, 1, 10.0)
    assert simulate(SHORT, 2, 1, 10.0) != simulate(replace(SHORT, seed=2), 2, 1, 10.0)


def test_a_broker_with_time_to_spare_filters_everything_and_nobody_waits() -> None:
    figures = simulate(SHORT, 2, 1, 10.0)
    assert (figures.exposed_wait, figures.unfiltered, figures.off_plan, figures.holds) == (0.0, 0.0, 0.0, True)
    assert figures.staleness_p50 is not None and figures.staleness_p99 is not None
    assert 0 < figures.staleness_p50 <= figures.staleness_p99 <= RunSettings().staleness_bound
    assert figures.steps_per_s == pytest.approx(97, abs=5)  # of two ranks, the slower one counts


def test_a_broker_that_is_slower_than_the_steps_lets_the_boss_wait_and_then_draw_for_itself() -> None:
    figures = simulate(replace(SHORT, costs=replace(FREE, iteration_us=500_000.0)), 2, 1, 10.0)
    assert figures.exposed_wait > 0.005
    assert figures.off_plan > 0.5
    assert figures.utilisation > 0.9
    assert not figures.holds


def test_assistants_that_score_too_slowly_leave_windows_unfiltered_and_nobody_waits_for_them() -> None:
    figures = simulate(replace(SHORT, times=RoleTimes(score_us=20_000.0)), 2, 1, 10.0)
    assert figures.unfiltered > 0.5
    assert figures.exposed_wait < 0.005


def test_a_straggling_rank_holds_all_ranks_up() -> None:
    steady = RoleTimes(jitter=0.0, straggler_share=0.0)
    assert simulate(replace(SHORT, times=steady), 2, 1, 10.0).steps_per_s == pytest.approx(100, rel=1e-6)
    slow = replace(steady, straggler_share=1.0, straggler_factor=2.0)
    assert simulate(replace(SHORT, times=slow), 2, 1, 10.0).steps_per_s == pytest.approx(50, rel=1e-6)


def test_what_the_broker_sends_takes_its_time_on_its_line() -> None:
    narrow = simulate(replace(SHORT, network=Network(gigabits_per_s=1e-3)), 2, 1, 10.0)
    assert narrow.exposed_wait > simulate(SHORT, 2, 1, 10.0).exposed_wait


def test_what_comes_while_the_thread_is_busy_is_taken_as_soon_as_it_is_free() -> None:
    """What comes while it lies idle is taken a moment later, with what belongs to it."""
    taken: list[tuple[float, int]] = []

    class Slow(CountedEngine):
        def serve(self, heard: list[Said], now: float) -> tuple[float, list[tuple[str, AnyMessage]]]:
            taken.append((now, len(heard)))
            return 1.0, []

    simulated = world(Slow(FREE))
    said = Said("boss-0", Heartbeat(seq=0), 0)
    for moment in (0.0, GATHER_S / 2, 0.5, 0.75):
        simulated.at(moment, lambda: simulated.broker.hear(said))
    simulated.run(until=lambda: len(taken) == 2)
    assert taken == [(GATHER_S, 2), (GATHER_S + 1.0, 2)]


def test_windows_that_are_leased_while_an_assistant_joins_reach_it() -> None:
    """Lost ones would hold the Assistant's slots until their leases run out."""
    simulated = world(CountedEngine(FREE), assistants=1, step_s=0.5)
    simulated.run(until=lambda: simulated.now > simulated.settings.lease_s + 1.0)
    counters = simulated.broker.engine.core.state.peers["assistant-0"].counters
    assert counters["windows"] > 0 and "leases_expired" not in counters


def test_the_brokers_own_loop_leads_to_the_same_steps_as_the_counted_one(tmp_path: Path) -> None:
    counted = world(CountedEngine(replace(FREE, iteration_us=300.0)))
    counted.run(until=lambda: len(counted.boss.steps) >= 30)
    engine = RealEngine(tmp_path / "run", took_s=0.0003)
    real = world(engine)
    real.run(until=lambda: len(real.boss.steps) >= 30)
    engine.close()
    assert real.boss.steps == counted.boss.steps
    assert real.broker.iterations == counted.broker.iterations


def test_the_work_counted_is_that_of_the_brokers_own_loop(tmp_path: Path) -> None:
    counts: list[list[float]] = []

    class Noting(Costs):
        def of(self, work: Work) -> float:
            counts.append(work.counts())
            return 0.0003

    counted = world(CountedEngine(Noting()), step_s=0.02)  # it ends before anybody has been silent for a second
    counted.run(until=lambda: len(counted.boss.steps) >= 30)
    engine = RealEngine(tmp_path / "run", took_s=0.0003)
    real = world(engine, step_s=0.02)
    real.run(until=lambda: len(real.boss.steps) >= 30)
    engine.close()
    published = NAMES.index("statistics_role_us")  # measured apart
    assert [c[:published] for c in counts] == [c[:published] for c in engine.timed.counts]


def _messages() -> list[AnyMessage]:
    ids, some, none = np.arange(64), np.ones(64, dtype=np.float32), np.ones(0, dtype=np.float32)
    segment = Segment(count=64, epoch=0, window=3, assistant="assistant-0", learned_through=7)
    return [
        LossReport(step=1, through=1, rank=0, losses=some),
        LossReport(step=1, through=1, rank=0, losses=none),
        LossRecord(
            position=1, step=1, rank=0, learned_through=1, epoch=0, ids=ids, losses=some, keep_probabilities=some
        ),
        Window(window=1, attempt=1, epoch=0, progress=0.0, ids=ids),
        Selection(window=1, attempt=1, kept_ids=ids, keep_probabilities=some, learned_through=1),
        Batch(
            step=1, epoch=0, progress=0.0, ids=ids, keep_probabilities=some, rank_counts=[32, 32], segments=[segment]
        ),
    ]


@pytest.mark.parametrize("message", _messages(), ids=lambda m: type(m).__name__)
def test_a_message_is_about_as_long_as_it_is_on_the_wire(message: AnyMessage) -> None:
    coded = sum(map(len, encode(Envelope(seq=1, span=1, ack=1, message=message))))
    assert size_of(message) == pytest.approx(coded, abs=60)


def test_the_light_core_says_what_the_assistants_core_says() -> None:
    settings = RunSettings(staleness_bound=24)
    cores = [kind(settings, Steady(0.5)) for kind in (AssistantCore, LightCore)]
    rng = np.random.default_rng(1)
    position = 0
    for turn in range(300):
        ids = np.arange(turn, turn + 4)
        message: AnyMessage = Window(window=turn, attempt=1, epoch=0, progress=0.0, ids=ids)
        if rng.random() < 0.1:
            position += 40
            message = RecordsDropped(through_position=position, learned_through=position - 1)
        elif rng.random() < 0.8:
            ones = np.ones(4, dtype=np.float32)
            place = {"position": position, "step": position, "learned_through": position}
            message = LossRecord(rank=0, epoch=0, ids=ids, losses=ones, keep_probabilities=ones, **place)
            position += 1
        said = []
        for core in cores:
            core.receive(message)
            said.append([encode(Envelope(seq=0, span=1, ack=0, message=m)) for m in core.work()])
        assert said[0] == said[1]
        assert cores[0].has_work() == cores[1].has_work()


def test_prices_are_found_again_from_iterations_that_cost_them() -> None:
    prices = Costs(**{name: 1.0 + place for place, name in enumerate(NAMES)})
    rng = np.random.default_rng(1)
    runs = []
    for _ in range(5):
        counts = rng.integers(0, 100, size=(100, len(NAMES))).astype(float)
        runs.append(Timed(counts.tolist(), (counts @ prices.prices()).tolist()))
    assert fitted(runs).prices() == pytest.approx(prices.prices())


def test_measuring_gives_a_price_to_what_was_done_and_none_below_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate_measure, "WORLDS", ((1, 1, 8), (3, 2, 8)))
    monkeypatch.setattr(simulate_measure, "ITERATIONS", 70)
    monkeypatch.setattr(simulate_measure, "MESSAGES", 500)
    costs, ratios = simulate_measure.measured(seed=1)
    assert min(costs.prices()) >= 0
    assert min(costs.received_us, costs.sent_us, costs.statistics_role_us) > 0
    assert len(ratios) == 2 and min(ratios) > 0


def test_the_limit_holds_and_is_close_to_where_it_would_not() -> None:
    pair = pair_of(SHORT, (2, 1))
    assert pair.limit is not None and pair.limit.holds
    assert pair.limit.utilisation > 0.7
    assert pair.limit.step_ms < pair.cells[0].step_ms


def test_where_the_longest_steps_asked_for_are_too_short_a_limit_is_found_beyond_them() -> None:
    pair = pair_of(replace(SHORT, costs=replace(FREE, received_us=20_000.0)), (2, 1))
    assert not pair.cells[0].holds
    assert pair.limit is not None and pair.limit.holds and pair.limit.step_ms > pair.cells[0].step_ms


def test_steps_shorter_than_those_that_saturate_the_broker_are_dashes() -> None:
    settings = replace(SHORT, step_ms=(5.0, 10.0), costs=replace(FREE, iteration_us=500_000.0))
    pair = replace(pair_of(settings, (2, 1)), limit=None)
    longer, shorter = cell_rows([pair], settings)
    assert (longer[2], shorter[2]) == ("10", "5")
    assert "-" not in longer[3:5] and set(shorter[3:]) == {"-"}
    assert len(longer) == len(shorter)
    assert limit_rows([pair])[0][2:] == ["-"] * (len(longer) - 2)
    assert most_ranks([pair], settings) == [["1", "-", "-"]]


def test_the_most_ranks_are_the_most_of_those_that_hold() -> None:
    good = simulate(SHORT, 2, 1, 10.0)
    cells = [replace(good, ranks=4), replace(good, ranks=8), replace(good, ranks=16, utilisation=0.9)]
    pairs = [Pair(ranks=c.ranks, assistants=1, cells=[c], limit=None) for c in cells]
    assert most_ranks(pairs, replace(SHORT, ranks=(4, 8, 16))) == [["1", "8"]]


def test_the_pairs_come_in_the_order_asked_for() -> None:
    settings = replace(SHORT, ranks=(1, 2), assistants=(2, 1), steps=1, least_steps=1, warm_up_steps=1)
    found = all_pairs(settings)
    assert [(p.ranks, p.assistants) for p in found] == [(1, 2), (1, 1), (2, 2), (2, 1)]


def test_the_page_gets_the_tables_between_its_marks_each_time_anew(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    pair = Pair(ranks=2, assistants=1, cells=[simulate(SHORT, 2, 1, 10.0)], limit=None)
    for _ in range(2):
        put_into(page, tables([pair], SHORT))
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n")
    assert text.count("| 2 | 1 | 10 |") == 1 and "old" not in text


def test_the_page_about_scaling_has_a_place_for_the_tables() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "SCALING.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(UserError, match=r"page\.md: has no lines"):
        put_into(page, "tables")
    assert page.read_text() == "nothing\n"


def test_the_file_has_every_figure(tmp_path: Path) -> None:
    figures = simulate(SHORT, 2, 1, 10.0)
    write(tmp_path / "figures.json", [Pair(ranks=2, assistants=1, cells=[figures], limit=None)], SHORT)
    written = msgspec.json.decode((tmp_path / "figures.json").read_bytes())
    assert written.keys() == {"machine", "settings", "pairs"}
    assert msgspec.convert(written["pairs"][0]["cells"][0], Figures) == figures
    assert written["settings"]["costs"].keys() == set(NAMES)


def test_step_times_are_asked_for_in_one_place_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A mean step time among the roles' times would be overridden by --step-ms."""
    with pytest.raises(SystemExit):
        tyro.cli(SimulateBenchmark, args=["--times.step-s", "0.1"])
    assert "--times.step-s" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"ranks": ()}, {"step_ms": (0.0,)}, {"steps": 0}])
def test_settings_without_a_meaning_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        replace(SHORT, **wrong)  # type: ignore[arg-type]
