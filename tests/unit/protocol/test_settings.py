"""A bad setting is refused before the run, with its name, its value and what to do; every setting is explained."""

from __future__ import annotations

import ast
import dataclasses
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol
from protocol.client import ConnectSettings, RoleClient
from protocol.errors import SettingError
from protocol.messages import Hello
from protocol.settings import MAX_STEP_INSTANCES, RunSettings

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no policy's name": (
        {"policy": "rm -rf"},
        "policy=rm -rf: no policy's name; one of autoassist, autoassist-paper, ",
    ),
    "a policy's name without end": ({"policy": "a" * 65}, "no policy's name; one of autoassist"),
    "both budgets": ({"epochs": 2, "boss_instances": 9}, "epochs=2: boss_instances=9 is given too; give only one"),
    "no batch": ({"batch_size": 0}, "batch_size=0: must be at least 1"),
    "no ranks": ({"world_size": 0}, "world_size=0: must be at least 1"),
    "no prefetch": ({"prefetch_batches": 0}, "prefetch_batches=0: must be at least 1"),
    "no stock": ({"stock_batches": -1}, "stock_batches=-1: must be at least 1"),
    "no staleness": ({"staleness_bound": 0}, "staleness_bound=0: must be at least 1"),
    "no assistants": ({"assistants": 0}, "assistants=0: must be at least 1"),
    "no epochs": ({"epochs": 0}, "epochs=0: must be at least 1"),
    "no instances": ({"boss_instances": 0}, "boss_instances=0: must be at least 1"),
    "no tokens": ({"max_tokens": 0}, "max_tokens=0: must be at least 1"),
    "tokens without end": ({"max_tokens": 1 << 31}, f"max_tokens={1 << 31}: must be at most {(1 << 31) - 1}"),
    "negative pool": ({"pool_steps": -1, "max_tokens": 64}, "pool_steps=-1: must not be negative"),
    "pool without end": (
        {"pool_steps": 5000, "max_tokens": 64, "staleness_bound": 99999},
        "pool_steps=5000: must be at most 4096",
    ),
    "a pool without tokens": ({"pool_steps": 8}, "pool_steps=8: is for --max-tokens alone"),
    "negative window": ({"window_size": -1}, "window_size=-1: must not be negative"),
    "window too large": ({"window_size": 1048576}, "window_size=1048576: exceeds 65536; lower it"),
    "window too small": (
        {"batch_size": 512, "window_size": 1},
        "window_size=1: makes more than 256 windows per step",
    ),
    "negative seed": ({"seed": -1}, "seed=-1: must not be negative"),
    "seed too large": ({"seed": 1 << 63}, f"seed={1 << 63}: must be below 2**63"),
    "no patience": ({"patience_s": 0.0}, "patience_s=0.0: must be a positive number of seconds"),
    "patience that is no number": ({"patience_s": math.nan}, "patience_s=nan: must be a positive number of seconds"),
    "endless lease": ({"lease_s": math.inf}, "lease_s=inf: must be a positive number of seconds"),
    "no floor": ({"floor": 0.0}, "floor=0.0: must lie in (0, 1]"),
    "floor above one": ({"floor": 1.01}, "floor=1.01: must lie in (0, 1]"),
    "floor that is no number": ({"floor": math.nan}, "floor=nan: must lie in (0, 1]"),
    "everything dropped": ({"drop_rate": 1.0}, "drop_rate=1.0: must lie in [0, 1)"),
    "negative drop rate": ({"drop_rate": -0.1}, "drop_rate=-0.1: must lie in [0, 1)"),
    "no number for the gate": ({"gate": 0}, "gate=0: must be true or false"),
    "negative warm-up": ({"warmup_epochs": -1}, "warmup_epochs=-1: must not be negative"),
    "a warm-up that is no number": ({"warmup_epochs": math.nan}, "warmup_epochs=nan: must be a number of epochs"),
    "endless warm-up": ({"warmup_epochs": 1 << 63}, f"warmup_epochs={1 << 63}: must be at most"),
    "anneal beyond the run": ({"anneal_share": 1.5}, "anneal_share=1.5: must lie in [0, 1]"),
    "anneal that is no number": ({"anneal_share": math.nan}, "anneal_share=nan: must lie in [0, 1]"),
    "no power": ({"power": 0.0}, "power=0.0: must be a positive number"),
    "endless power": ({"power": math.inf}, "power=inf: must be a positive number"),
    "rho without its losses": ({"policy": "rho"}, "irreducible_losses=: policy rho needs them; give --irreducible-los"),
    "a path without end": (
        {"irreducible_losses": "x" * 5000},
        "irreducible_losses=… (5000 letters): must have at most",
    ),
    "weights that are none": ({"weights": "some"}, "weights=some: must be one of auto, on, off"),
    "clip below one": ({"weight_clip": 0.5}, "weight_clip=0.5: must be a number of at least 1"),
    "endless clip": ({"weight_clip": math.inf}, "weight_clip=inf: must be a number of at least 1"),
    "class floor above one": ({"class_floor": 1.1}, "class_floor=1.1: must lie in [0, 1]"),
    "yes for the guard": ({"noise_guard": True}, "noise_guard=True: must be a word"),
    "a guard that is none": ({"noise_guard": "some"}, "noise_guard=some: must be one of auto, on, off"),
    "step too large": (
        {"batch_size": MAX_STEP_INSTANCES, "world_size": 2},
        f"batch_size={MAX_STEP_INSTANCES}: times world_size 2 exceeds {MAX_STEP_INSTANCES} instances per step; lower",
    ),
    "prefetch without end": (
        {"prefetch_batches": 1 << 40, "staleness_bound": 1 << 50},
        f"prefetch_batches={1 << 40}: must be at most 4096",
    ),
    "stock without end": (
        {"stock_batches": 5000, "staleness_bound": 9000},
        "stock_batches=5000: must be at most 4096",
    ),
    "a budget beyond 64 bits": ({"boss_instances": 1 << 64}, f"boss_instances={1 << 64}: must be at most"),
    "a fraction of a batch": (
        {"batch_size": 64.0},
        "batch_size=64.0: must be a whole number (Python's int), not float",
    ),
    "a word for a batch": ({"batch_size": "64"}, "batch_size='64': must be a whole number (Python's int), not str"),
    "nothing for a batch": (
        {"batch_size": None},
        "batch_size=None: must be a whole number (Python's int), not NoneType",
    ),
    "a number of NumPy's": ({"epochs": np.int64(3)}, "epochs=np.int64(3): must be a whole number (Python's int)"),
    "yes for a count": ({"assistants": True}, "assistants=True: must be a whole number (Python's int), not bool"),
    "one for yes": ({"deterministic": 1}, "deterministic=1: must be true or false (Python's bool), not int"),
    "a word for a time": ({"lease_s": "5"}, "lease_s='5': must be a number (Python's float), not str"),
    "a number for a policy": ({"policy": 3}, "policy=3: must be a word (Python's str), not int"),
}


@pytest.mark.parametrize("given_settings, says", BAD.values(), ids=BAD.keys())
def test_a_bad_setting_is_refused_with_its_name_its_value_and_a_remedy(
    given_settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(SettingError) as refused:
        RunSettings(**given_settings)
    assert says in str(refused.value)


def test_a_warm_up_that_is_not_given_is_the_policys_own_and_travels_as_a_number() -> None:
    """A role of an earlier version takes none for none."""
    for policy, own in (("autoassist", 0.25), ("random-drop", 0.25), ("infobatch", 1), ("mine", 1)):
        settings = RunSettings(policy=policy)
        assert (settings.warmup, settings.warmup_epochs, settings.resolved().warmup_epochs) == (own, None, own)
    assert RunSettings(warmup_epochs=0).warmup == 0
    assert RunSettings().difference(RunSettings(warmup_epochs=0.25)) == ""
    assert RunSettings().difference(RunSettings(warmup_epochs=1)) == "warmup_epochs: 0.25 here, 1 there"


def test_a_whole_warm_up_travels_as_when_it_had_to_be_whole_and_a_part_of_an_epoch_as_it_is() -> None:
    """A role of an earlier version knows only whole numbers there."""
    for given_warmup, sent in ((1.0, 1), (2, 2), (0, 0), (0.1, 0.1)):
        settings = RunSettings(warmup_epochs=given_warmup)
        raw = msgspec.msgpack.encode(settings)
        found = msgspec.msgpack.decode(raw)["warmup_epochs"]
        assert (found, type(found)) == (sent, type(sent))
        assert msgspec.msgpack.decode(raw, type=RunSettings) == settings


def test_every_setting_of_a_run_has_a_refusal_above() -> None:
    """A setting that is added later without validation, or without a test of it, fails here."""
    refused = {name for given_settings, _ in BAD.values() for name in given_settings}
    assert refused == {field.name for field in dataclasses.fields(RunSettings)}


def test_a_pipeline_deeper_than_the_bound_is_refused_with_its_sum() -> None:
    """The bound would be broken by the depth alone: 10 ready, 3 in stock, a window of 4 steps, and the one in hand."""
    with pytest.raises(SettingError) as refused:
        RunSettings(staleness_bound=17, prefetch_batches=10, stock_batches=3)
    assert str(refused.value) == (
        "staleness_bound=17: the pipeline alone is 18 steps deep (prefetch_batches 10 + stock_batches 3 + window 4 "
        "+ 1); raise the bound or lower these"
    )


def test_the_pool_counts_in_the_pipeline_s_depth_twice_since_it_fills_and_then_empties() -> None:
    run = {"max_tokens": 4096, "pool_steps": 10}
    assert RunSettings(**run, staleness_bound=37).pipeline_steps == 37
    with pytest.raises(SettingError) as refused:
        RunSettings(**run, staleness_bound=36)
    assert "37 steps deep (prefetch_batches 8 + stock_batches 4 + window 4 + twice pool_steps 10 + 1)" in str(
        refused.value
    )


@pytest.mark.parametrize(("ranks", "depth"), [(1, 16), (2, 8), (3, 6), (8, 4)])
def test_by_itself_a_pool_holds_sixteen_batches_and_four_steps_at_least(ranks: int, depth: int) -> None:
    assert RunSettings(max_tokens=4096, world_size=ranks).pool_depth == depth
    assert RunSettings(world_size=ranks).pool_depth == 0
    assert RunSettings(staleness_bound=18, prefetch_batches=10, stock_batches=3).pipeline_steps == 18


def test_deterministic_mode_learns_a_whole_depth_behind_so_it_needs_a_wider_bound() -> None:
    with pytest.raises(SettingError, match="the pipeline alone is 22 steps deep"):
        RunSettings(staleness_bound=18, prefetch_batches=10, stock_batches=3, deterministic=True)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 64), st.integers(0, 65536))
def test_the_sum_is_what_prefetch_stock_window_and_the_step_in_hand_hold(batch: int, ranks: int, window: int) -> None:
    try:
        run = RunSettings(batch_size=batch, world_size=ranks, window_size=window, staleness_bound=1 << 20)
    except SettingError as error:
        assert "windows per step" in str(error)
        return
    assert run.window_instances == (window or min(65536, 4 * batch * ranks))
    assert (run.window_steps - 1) * run.step_instances < run.window_instances <= run.window_steps * run.step_instances
    assert run.pipeline_steps == run.prefetch_batches + run.stock_batches + run.window_steps + 1


@pytest.mark.parametrize(
    "given_settings, budget",
    [({}, 3), ({"epochs": 7}, 7), ({"boss_instances": 100}, None)],
    ids=["default", "epochs", "instances"],
)
def test_a_run_lasts_three_epochs_unless_told_otherwise(given_settings: dict[str, Any], budget: int | None) -> None:
    assert RunSettings(**given_settings).epoch_budget == budget


def test_equal_settings_have_no_difference() -> None:
    assert RunSettings(epochs=2).difference(RunSettings(epochs=2)) == ""


def test_the_difference_names_each_field_with_both_values() -> None:
    """What a second Boss with other settings is told."""
    here, there = RunSettings(epochs=2, seed=1), RunSettings(epochs=3, seed=1, floor=0.2)
    assert here.difference(there) == "epochs: 2 here, 3 there; floor: None here, 0.2 there"


@pytest.mark.parametrize("policy, weighs", [("autoassist", False), ("infobatch", True), ("importance", True)])
def test_the_policies_whose_method_it_is_weigh_by_themselves_and_each_can_be_told(policy: str, weighs: bool) -> None:
    assert RunSettings(policy=policy).weighs is weighs
    assert RunSettings(policy=policy, weights="on").weighs
    assert not RunSettings(policy=policy, weights="off").weighs


def test_a_policy_of_somebody_elses_has_a_name_that_the_broker_takes() -> None:
    """It has no list of them: they are installed where Assistants run."""
    assert RunSettings(policy="my_package.Mine-2").policy == "my_package.Mine-2"


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 99), st.integers(0, 9), st.integers(1, 99), st.integers(0, 9))
def test_there_is_a_difference_exactly_where_settings_are_unequal(
    batch: int, seed: int, batch2: int, seed2: int
) -> None:
    one, other = RunSettings(batch_size=batch, seed=seed), RunSettings(batch_size=batch2, seed=seed2)
    assert (one.difference(other) == "") == (one == other)


# How a role finds the broker


@pytest.mark.parametrize(
    "given_settings, says",
    [
        ({"broker": "localhost:5555"}, "broker=localhost:5555: give an address such as tcp://host:5555"),
        ({"broker": "tcp://host"}, "broker=tcp://host: give an address such as tcp://host:5555"),
        ({"broker": "tcp://host:99999"}, "broker=tcp://host:99999: give an address such as tcp://host:5555"),
        ({"broker": "tcp://:5555"}, "broker=tcp://:5555: give an address such as tcp://host:5555"),
        ({"broker": "tcp://host:0"}, "broker=tcp://host:0: give an address such as tcp://host:5555"),
        ({"connect_timeout_s": 0.0}, "connect_timeout_s=0.0: must be a positive number of seconds"),
        ({"connect_timeout_s": math.nan}, "connect_timeout_s=nan: must be a positive number of seconds"),
    ],
    ids=["no protocol", "no port", "port too large", "no host", "port zero", "no time", "no number"],
)
def test_a_bad_connection_setting_is_refused(given_settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError) as refused:
        ConnectSettings(**given_settings)
    assert says == str(refused.value)


HELLO = Hello(role="boss", name="boss-0", incarnation="i", dataset_id="d", n=9)


def test_an_address_that_is_none_is_refused_at_once_and_leaves_nothing_open() -> None:
    """pytest fails this test for an unclosed context."""
    with pytest.raises(SettingError, match="broker=ipc://"):
        RoleClient(HELLO, ConnectSettings(broker="ipc://"))


@pytest.mark.parametrize(
    "hello, says",
    [
        (Hello(role="boss", name="boss-0", incarnation="i", dataset_id="x" * 300, n=9), "`hello.dataset_id`"),
        (Hello(role="boss", name="boss-0", incarnation="i", dataset_id="d", n=np.int64(9)), "int64 cannot be sent"),  # type: ignore[arg-type]
        (Hello(role="boss", name="boss-0", incarnation="i", dataset_id="d", n=9.0), "`hello.n`"),  # type: ignore[arg-type]
    ],
    ids=["name too long", "number of NumPy's", "fraction"],
)
def test_a_hello_that_no_broker_could_read_is_refused_at_once(hello: Hello, says: str) -> None:
    """The broker drops what it cannot read, so the role would look for it until --connect-timeout-s."""
    with pytest.raises(SettingError, match=f"boss-0: .*{says}.*; correct"):
        RoleClient(hello, ConnectSettings())


# Every setting is explained


def settings_classes() -> list[tuple[str, ast.ClassDef]]:
    """Every dataclass in protocol/ that is named for settings, or for the clocks of a conversation."""
    assert protocol.__file__ is not None
    found = []
    for path in sorted(Path(protocol.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Settings", "Times")):
                found.append((f"{path.stem}.{node.name}", node))
    return found


def test_the_settings_classes_are_found() -> None:
    names = [name for name, _ in settings_classes()]
    assert {"settings.RunSettings", "client.ConnectSettings", "session.SessionTimes"} <= set(names)


@pytest.mark.parametrize("node", [n for _, n in settings_classes()], ids=[name for name, _ in settings_classes()])
def test_every_setting_has_a_docstring_beneath_it(node: ast.ClassDef) -> None:
    for place, statement in enumerate(node.body):
        if not isinstance(statement, ast.AnnAssign):
            continue
        below = node.body[place + 1] if place + 1 < len(node.body) else None
        explained = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        name = ast.unparse(statement.target)
        assert explained, f"{node.name}.{name} has no docstring beneath it"
        assert isinstance(below.value.value, str) and len(below.value.value) > 10, name  # type: ignore[union-attr]


@pytest.mark.parametrize("node", [n for _, n in settings_classes()], ids=[name for name, _ in settings_classes()])
def test_settings_are_frozen_and_given_by_name(node: ast.ClassDef) -> None:
    (decorator,) = node.decorator_list
    assert ast.unparse(decorator) == "dataclass(frozen=True, kw_only=True)"
