"""Long runs of small tight settings under dice: what Hypothesis reaches seldom, stock that goes stale and outages.

The rules and the audit are those of ``test_core_machine``; a run is named by its seed.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

from protocol.settings import RunSettings
from tests.unit.broker.test_core_machine import BrokerMachine
from tests.unit.broker.world_runs import USUAL_LENGTH

SEEDS = range(150)
EVENTS = 100


def tight(dice: random.Random) -> tuple[RunSettings, int]:
    """A run whose staleness bound is as low as its pipeline allows; most have one rank."""
    batch_size, ranks = dice.randint(1, 4), dice.choice([1, 1, 1, 2, 3])
    n = batch_size * ranks * dice.randint(1, 6) + dice.randint(0, batch_size - 1)
    by_epochs, by_tokens = dice.random() < 0.7, dice.random() < 0.3
    run = RunSettings(
        epochs=dice.randint(1, 6) if by_epochs else None,
        boss_instances=None if by_epochs else dice.randint(1, 5 * n),
        batch_size=batch_size,
        world_size=ranks,
        window_size=dice.choice([batch_size, batch_size, 2 * batch_size + 1]),
        prefetch_batches=dice.choice([1, 2, 4, 6]),
        stock_batches=dice.randint(1, 6),
        staleness_bound=1000,
        lease_s=dice.choice([1.0, 5.0]),
        max_tokens=batch_size * USUAL_LENGTH + dice.randint(0, 9) if by_tokens else None,
        pool_steps=dice.randint(1, 3) if by_tokens else 0,
    )
    return dataclasses.replace(run, staleness_bound=run.pipeline_steps), n


def outage(machine: BrokerMachine, dice: random.Random) -> None:
    """The broker is killed with batches on their way; the Boss goes on by itself; everybody comes back."""
    world = machine.world
    if world.holding:
        world.settle()
    world.holding = dice.random() < 0.5
    world.grant()
    machine.broker_is_killed_and_restarts(lost=dice.choice(["unsent", "unsent", "uncommitted"]), everybody=False)
    machine.boss_trains_off_plan(steps=dice.randint(1, 8), values=dice.random() < 0.5)
    world.rejoin_all()
    world.grant()
    for assistant in world.assistants:
        world.say(assistant.peer, assistant.credit())


def one_event(machine: BrokerMachine, dice: random.Random) -> None:
    """A rule of the machine, or an outage."""
    number, rate = dice.randint(0, 1), dice.choice([0.5, 0.9, 1.0])
    match dice.choices(range(9), weights=[30, 10, 20, 10, 8, 6, 3, 5, 6])[0]:
        case 0:
            machine.boss_pulls(pulls=dice.randint(0, 2), tells=True)
            for rank in range(machine.world.settings.world_size):
                machine.boss_reports(rank=rank, kind="values", also=dice.randint(0, 2))
        case 1:
            machine.everybody_works(
                turns=1, rate=rate, awake=dice.randint(0, 3), learning=dice.randint(0, 3), trains=dice.randint(0, 3)
            )
        case 2:
            knows = dice.choice(["all", "just enough"])
            machine.assistant_answers(number=number, rate=rate, newest=dice.random() < 0.5, knows=knows)
        case 3:
            machine.assistant_learns(number=number, most=dice.randint(1, 3), tells=True)
        case 4:
            machine.boss_trains_off_plan(steps=dice.randint(1, 8), values=dice.random() < 0.5)
        case 5:
            outage(machine, dice)
        case 6:
            machine.time_passes(seconds=dice.choice([0.01, 0.1, 0.3, 1.1]))
        case 7:
            if machine.world.holding:
                machine.broker_commits()
            else:
                machine.broker_groups_its_commits()
        case 8:
            how = dice.choice(["same process", "from its checkpoint", "from nothing"])
            machine.assistant_comes_back(number=number, how=how)


def test_long_lives_keep_every_promise_and_reach_the_corners() -> None:
    """150 runs, each with a hundred mishaps: all are audited to their end, and the rare paths were all walked."""
    met: Counter[str] = Counter()
    for seed in SEEDS:
        dice, machine = random.Random(seed), BrokerMachine()
        machine.start(run=tight(dice), alone=dice.random() < 0.3, joined=True)
        for _ in range(EVENTS):
            one_event(machine, dice)
        machine.teardown()
        state = machine.world.core.state
        met.update(state.the_run.counters.keys())
        met.update(counter for row in state.peers.values() for counter in row.counters)
    rare = [
        "reopened_windows",
        "returned_steps",
        "off_plan_instances",
        "selections_stale",
        "unfiltered_windows_patience",
    ]
    assert all(met[counter] for counter in rare), met
