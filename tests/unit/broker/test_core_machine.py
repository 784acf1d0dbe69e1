"""A Hypothesis state machine: every fault in any order, and the run's guarantees hold after each event.

``World`` commits, audits and delivers each event; ``world_audit`` says what is checked.
"""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.messages import EpochResult, LossReport, Selection
from protocol.settings import RunSettings
from tests.unit.broker.world import SimAssistant, World
from tests.unit.broker.world_runs import lengths_of, runs


def nonsense_of(window: Selection, ids: np.ndarray, kind: str) -> Selection:
    """A selection that cannot be right, in one of many ways."""
    ones = np.ones(len(ids), np.float32)
    changes = {
        "foreign IDs": {"kept_ids": ids + 10**6, "keep_probabilities": ones},
        "an ID twice": {"kept_ids": np.repeat(ids[:1], 2), "keep_probabilities": np.ones(2, np.float32)},
        "huge IDs": {"kept_ids": np.array([2**63 - 1]), "keep_probabilities": ones[:1]},
        "negative IDs": {"kept_ids": np.array([-1]), "keep_probabilities": ones[:1]},
        "π = 0": {"kept_ids": ids, "keep_probabilities": ones * 0},
        "π > 1": {"kept_ids": ids, "keep_probabilities": ones * 1.5},
        "π is NaN": {"kept_ids": ids, "keep_probabilities": ones * np.nan},
        "one π too many": {"kept_ids": ids[1:], "keep_probabilities": ones},
        "ℓ of the future": {"learned_through": 10**6},
        "ℓ below -1": {"learned_through": -7},
    }
    if len(ids) > 1:
        changes["another order"] = {"kept_ids": ids[::-1].copy(), "keep_probabilities": ones}
    told = {name: getattr(window, name) for name in window.__struct_fields__}
    return Selection(**(told | changes.get(kind, changes["π = 0"])))


KINDS_OF_NONSENSE = [
    "foreign IDs", "an ID twice", "huge IDs", "negative IDs", "π = 0", "π > 1", "π is NaN", "one π too many",
    "ℓ of the future", "ℓ below -1", "another order",
]  # fmt: skip
assistants = st.integers(0, 2)
ranks = st.integers(0, 3)


class BrokerMachine(RuleBasedStateMachine):
    """The events of a run with faults. At the end the faults stop, and the run must come to its end."""

    world: World
    alone = False
    hung: set[int]

    @initialize(run=runs(), alone=st.booleans(), joined=st.booleans())
    def start(self, run: tuple[RunSettings, int], alone: bool, joined: bool) -> None:
        chosen, n = run
        assistants, lengths = chosen.assistants + (not chosen.deterministic), lengths_of(chosen, n)
        self.world = World(chosen, n, assistants=assistants, lengths=lengths)
        self.alone = alone and not chosen.deterministic
        self.hung = set()
        if joined:
            self.world.rejoin_all()
            self.world.grant()
            for assistant in self.world.assistants:
                self.world.say(assistant.peer, assistant.credit())

    def assistant(self, number: int) -> SimAssistant:
        return self.world.assistants[number % len(self.world.assistants)]

    # The Boss

    @rule(pulls=st.integers(0, 4), tells=st.booleans())
    def boss_pulls(self, pulls: int, tells: bool) -> None:
        for _ in range(pulls):
            self.world.pull()
        if tells:
            self.world.grant()

    @rule(
        rank=ranks, kind=st.sampled_from(["values", "values", "NaN", "dropped", "wrong length"]), also=st.integers(0, 3)
    )
    def boss_reports(self, rank: int, kind: str, also: int) -> None:
        boss = self.world.boss
        rank %= len(boss.ranks)
        for step in boss.reportable(rank)[: 1 + also]:
            values = np.linspace(step, step + 1, boss.pulled[step].rank_counts[rank], dtype=np.float32)
            if kind == "NaN":
                values[0] = np.nan
            self.world.report(rank, {"dropped": None, "wrong length": np.ones(len(values) + 1)}.get(kind, values))

    @rule(rank=ranks, steps=st.integers(2, 5))
    def boss_acknowledges_a_range(self, rank: int, steps: int) -> None:
        rank %= len(self.world.boss.ranks)
        reportable = self.world.boss.reportable(rank)[:steps]
        if reportable:
            self.world.report(rank, through=reportable[-1])

    @rule(rank=ranks, back=st.integers(0, 4), span=st.integers(0, 2))
    def boss_repeats_a_report(self, rank: int, back: int, span: int) -> None:
        """A merged acknowledgement may name steps again that have arrived already."""
        boss = self.world.boss
        rank %= len(boss.ranks)
        last = boss.next_report[rank] - 1
        step = max(0, last - back)
        if last >= step and boss.ranks[rank].connected:
            losses = np.zeros(0 if span else boss.pulled[step].rank_counts[rank] if step in boss.pulled else 0)
            again = LossReport(step=step, through=min(last, step + span), rank=rank, losses=losses.astype(np.float32))
            if again.through == step or not len(losses):
                self.world.say(boss.ranks[rank], again)

    @rule(steps=st.integers(1, 8), values=st.booleans())
    def boss_trains_off_plan(self, steps: int, values: bool) -> None:
        """No batch comes, the broker being dead for one, so the Boss draws some by itself."""
        boss, chosen = self.world.boss, self.world.settings
        over = boss.finished or bool(boss.ranks[0].stopped)
        if not chosen.deterministic and not boss.items and boss.last_step >= 0 and not over:
            self.world.train_off_plan(steps, values=values)

    @rule(epoch=st.integers(-1, 5))
    def boss_evaluates(self, epoch: int) -> None:
        result = EpochResult(
            epoch=epoch, step=0, metric_name="accuracy", metric_value=0.5, boss_instances=1, train_s=1.0,
            exposed_wait_s=0.0, wall_s=1.0,
        )  # fmt: skip
        self.world.say(self.world.boss.ranks[0], result)

    @rule(rank=ranks)
    def boss_is_lost(self, rank: int) -> None:
        self.world.lose(self.world.boss.ranks[rank % len(self.world.boss.ranks)])

    @rule(rank=ranks)
    def boss_comes_back(self, rank: int) -> None:
        peer = self.world.boss.ranks[rank % len(self.world.boss.ranks)]
        if not peer.connected:
            self.world.hello(peer)

    @rule()
    def all_ranks_are_restarted(self) -> None:
        for peer in self.world.boss.ranks:
            self.world.lose(peer)
        self.world.boss.restart()

    # Assistants

    @rule(number=assistants, most=st.integers(1, 40), tells=st.booleans())
    def assistant_learns(self, number: int, most: int, tells: bool) -> None:
        assistant = self.assistant(number)
        if self.world.settings.deterministic:
            ordered = [w.learn_through for w in assistant.windows[:1]]
            assistant.learn(through=ordered[0] if ordered else -2)
        else:
            assistant.learn(most=most)
        if tells:
            self.world.say(assistant.peer, assistant.credit())

    @rule(
        number=assistants,
        rate=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
        newest=st.booleans(),
        knows=st.sampled_from(["all", "all", "just enough", "nothing"]),
    )
    def assistant_answers(self, number: int, rate: float, newest: bool, knows: str) -> None:
        assistant = self.assistant(number)
        if number in self.hung or not assistant.windows or not assistant.peer.connected:
            return
        deterministic = self.world.settings.deterministic
        if deterministic:
            assistant.learn(through=assistant.windows[0].learn_through)
            if assistant.learned_through < assistant.windows[0].learn_through:
                return
        window = assistant.windows.pop(-1 if newest and not deterministic else 0)
        selection = assistant.select(window, rate=rate)
        if knows != "all" and not deterministic:
            enough = self.oldest_accepted(len(selection.kept_ids)) if knows == "just enough" else -1
            learned_through = min(assistant.learned_through, max(-1, enough))
            selection = assistant.select(window, rate=rate, learned_through=learned_through)
        assistant.answered.append(selection)
        self.world.say(assistant.peer, selection)

    def oldest_accepted(self, kept: int) -> int:
        """ℓ of a selection that would be at the bound exactly if nothing else were to come before it."""
        state = self.world.core.state
        step = state.the_run.next_step + (state.in_stock + state.typical_size(kept)) // state.step_size
        return step + state.settings.pool_depth - state.settings.staleness_bound

    @rule(number=assistants)
    def assistant_answers_again(self, number: int) -> None:
        """A second answer to a window is late, whatever it says: it is counted, and nothing else changes."""
        assistant, world = self.assistant(number), self.world
        if not assistant.answered or not assistant.peer.connected or world.holding:
            return
        said = assistant.answered[-1]
        row = world.core.state.windows.get(said.window)
        if row is not None and (row.state, row.assistant, row.attempt) == (
            "leased", assistant.peer.name, said.attempt,
        ):  # fmt: skip
            return
        world.advance(0.0)
        before = {key: raw for key, raw in world.rows.items() if key != ("peer", assistant.peer.name)}
        late = world.core.state.peers[assistant.peer.name].counters.get("selections_late", 0)
        leases = dict(world.core.state.lease_deadlines)
        ids = world.audit.window_ids(said.window)
        told = {name: getattr(said, name) for name in said.__struct_fields__}
        everything = {"kept_ids": ids, "keep_probabilities": np.full(len(ids), 0.25, np.float32)}
        world.say(assistant.peer, Selection(**(told | everything)))
        assert world.core.state.peers[assistant.peer.name].counters["selections_late"] == late + 1
        after = {key: raw for key, raw in world.rows.items() if key != ("peer", assistant.peer.name)}
        leased_now = world.core.state.lease_deadlines.keys() - leases.keys()
        if not leased_now and before != after:
            # It has shown that it is awake, so a window may be leased to it; nothing else may change.
            raise AssertionError([key for key in before.keys() | after.keys() if before.get(key) != after.get(key)])

    @rule(number=assistants, kind=st.sampled_from(KINDS_OF_NONSENSE))
    def assistant_answers_nonsense(self, number: int, kind: str) -> None:
        assistant, world = self.assistant(number), self.world
        if number in self.hung or not assistant.windows or not assistant.peer.connected:
            return
        window = assistant.windows.pop(0)
        row = world.core.state.windows.get(window.window)
        leased = row is not None and (row.state, row.assistant, row.attempt) == (
            "leased", assistant.peer.name, window.attempt,
        )  # fmt: skip
        counter = "selections_refused" if leased else "selections_late"
        peer_row = world.core.state.peers[assistant.peer.name]
        before = peer_row.counters.get(counter, 0)
        world.say(assistant.peer, nonsense_of(assistant.select(window), window.ids, kind))
        if not world.holding:
            assert peer_row.counters[counter] == before + 1

    @rule(number=assistants, hangs=st.booleans())
    def assistant_hangs_or_wakes(self, number: int, hangs: bool) -> None:
        self.hung = self.hung | {number} if hangs else self.hung - {number}

    @rule(number=assistants)
    def assistant_is_lost(self, number: int) -> None:
        self.world.lose(self.assistant(number).peer)

    @rule(number=assistants, how=st.sampled_from(["same process", "from its checkpoint", "from nothing"]))
    def assistant_comes_back(self, number: int, how: str) -> None:
        assistant = self.assistant(number)
        if how != "same process":
            self.world.lose(assistant.peer)
            assistant.restart(from_checkpoint=how == "from its checkpoint")
        if not assistant.peer.connected:
            self.world.hello(assistant.peer)
            if assistant.peer.connected:
                self.world.say(assistant.peer, assistant.credit())

    @rule(number=assistants)
    def assistant_says_hello_again(self, number: int) -> None:
        """A gap in the numbering makes a role say Hello on the same stream."""
        peer = self.assistant(number).peer
        if peer.connected and not self.world.holding:
            self.world.hello(peer, fresh=False)

    # Time, everybody, and the broker

    @rule(
        turns=st.integers(1, 4),
        rate=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
        awake=st.integers(0, 7),
        learning=st.integers(0, 7),
        trains=st.integers(0, 5),
    )
    def everybody_works(self, turns: int, rate: float, awake: int, learning: int, trains: int) -> None:
        """Turns without a fault; only some Assistants take part, and fewer of them learn."""
        for _ in range(turns):
            for number, assistant in enumerate(self.world.assistants):
                if awake >> number & 1 and number not in self.hung:
                    self.world.serve(assistant, rate, learns=bool(learning >> number & 1))
            self.world.train(trains)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.1]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def broker_groups_its_commits(self) -> None:
        self.world.holding = True

    @precondition(lambda self: self.world.holding)
    @rule()
    def broker_commits(self) -> None:
        self.world.settle()

    @rule(lost=st.sampled_from(["uncommitted", "unsent"]), everybody=st.booleans())
    def broker_is_killed_and_restarts(self, lost: str, everybody: bool) -> None:
        self.world.crash("unsent" if lost == "unsent" else "uncommitted")
        if everybody:
            self.world.rejoin_all()
            self.world.grant()

    @invariant()
    def nothing_is_broken(self) -> None:
        assert not self.world.broken

    def teardown(self) -> None:
        """Faults stop: the run comes to its end, with or without Assistants, and all that was promised holds."""
        world = getattr(self, "world", None)
        if world is None or world.broken:
            return
        world.settle()
        if self.alone:
            for assistant in world.assistants:
                world.lose(assistant.peer)
            for peer in world.boss.ranks:
                if not peer.connected:
                    world.hello(peer)
        else:
            world.rejoin_all()
        for assistant in world.assistants:
            world.say(assistant.peer, assistant.credit())
        world.finish()


TestBrokerMachine = BrokerMachine.TestCase
TestBrokerMachine.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
