"""Other forms of the rule: what each keeps, on a few made-up losses."""

from __future__ import annotations

import numpy as np
import pytest
import tyro

from assistant.policies import Moment
from benchmarks.rule_forms import FORMS, PROPORTIONAL, Form, FormOracle, RuleForms
from protocol.arrays import F32
from protocol.messages import LossRecord
from protocol.settings import RunSettings
from workloads import load_workload

IDS = np.arange(4, dtype=np.int64)
LOSSES = np.array([0.4, 0.8, 1.2, 1.6], dtype=np.float32)
"""Their mean is 1."""
LABELS = np.array([0, 0, 1, 1])


def kept_by(form: str, when_trained: list[float] | None = None) -> F32:
    policy = Form(4, form, LABELS)
    ones = np.ones(4, dtype=np.float32)
    where = {"position": 0, "step": 0, "rank": 0, "learned_through": -1, "epoch": 0}
    policy.observe(LossRecord(**where, ids=IDS, losses=LOSSES, keep_probabilities=ones))
    if when_trained is not None:
        policy.when_trained[:] = when_trained
    return policy.keep_probability(IDS, Moment(0, 0.0))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (PROPORTIONAL, LOSSES),
        ("square-root", np.sqrt(LOSSES)),
        ("rank", [0.0, 0.25, 0.5, 0.75]),
        ("class-mean", [0.6, 0.6, 1.4, 1.4]),
        ("floor-0.3", LOSSES),
        ("evenly-drawn", LOSSES),
    ],
)
def test_a_form_of_the_loss_is_what_it_is_called(form: str, expected: list[float]) -> None:
    assert kept_by(form) == pytest.approx(np.asarray(expected), rel=1e-5)


def test_what_was_never_trained_passes_where_the_last_loss_counts() -> None:
    nan = float("nan")
    for form in ("last-loss", "last-loss-rank", "half-and-half"):
        assert kept_by(form) == pytest.approx(np.ones(4))
        assert kept_by(form, [nan, 1.0, 3.0, nan])[[0, 3]] == pytest.approx(np.ones(2))
    assert kept_by("last-loss", [1.0, 1.0, 3.0, 3.0]) == pytest.approx([0.5, 0.5, 1.5, 1.5])
    assert kept_by("last-loss-rank", [1.0, 2.0, 3.0, 4.0]) == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert kept_by("half-and-half", [1.0, 1.0, 3.0, 3.0]) == pytest.approx([0.45, 0.65, 1.35, 1.55])


def test_even_drawing_keeps_each_as_often_as_its_probability_says() -> None:
    oracle = FormOracle(load_workload("digits"), RunSettings(boss_instances=64), "evenly-drawn")
    keep = np.array([0.25, 0.5, 1.0, 0.125], dtype=np.float32)
    times = np.zeros(4, dtype=np.int64)
    for number in range(80):
        times += oracle._drawn(number, IDS, keep)
    assert times.tolist() == [20, 40, 80, 10]


def test_the_training_notes_the_losses_of_what_it_keeps() -> None:
    oracle = FormOracle(load_workload("digits"), RunSettings(boss_instances=64, policy="oracle"), "last-loss")
    assert oracle.run().instances == 64
    noted = np.isfinite(oracle.form.when_trained)
    assert noted.sum() == oracle.trained.kept and (oracle.form.when_trained[noted] > 0.0).all()


def test_a_form_that_there_is_not_is_refused() -> None:
    assert tyro.cli(RuleForms, args=["mnist", "--forms", "rank"]).forms == ("rank",)
    assert len(FORMS) == len(set(FORMS))
    with pytest.raises(SystemExit):
        tyro.cli(RuleForms, args=["mnist", "--forms", "rang"])
