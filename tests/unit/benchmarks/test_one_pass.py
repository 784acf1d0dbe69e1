"""The one-pass benchmark: its measures are what they say, and each of its predictors learns what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.one_pass import BATCH, Trace, auc, judged, train_once
from benchmarks.one_pass_predictors import PREDICTORS
from workloads.digits import Digits

CLASSES, STEPS = 4, 120


def made_up() -> tuple[np.ndarray, np.ndarray, Trace]:
    """Every fifth instance looks like another class than its own and is hard, and so, a little, is class 0."""
    rng, n = np.random.default_rng(0), STEPS * BATCH
    labels, odd = rng.integers(0, CLASSES, n), np.arange(n) % 5 == 0
    shown = np.where(odd, (labels + 1) % CLASSES, labels)
    features = (np.eye(CLASSES)[shown] * 4.0 + rng.normal(size=(n, CLASSES))).astype(np.float32)
    losses = (odd * 3.0 + (labels == 0) * 0.5 + 0.1 * rng.random(n)).astype(np.float32)
    ids = rng.permutation(n).reshape(STEPS, BATCH)
    return features, labels, Trace(ids, losses[ids])


def test_auc_is_the_chance_that_a_hard_one_scores_higher() -> None:
    scores = np.array([0.1, 0.4, 0.2, 0.9], dtype=np.float32)
    assert auc(scores, np.array([False, True, False, True])) == 1.0
    assert auc(scores, np.array([True, False, False, True])) == 0.5


@pytest.mark.parametrize("title", PREDICTORS)
def test_each_predictor_tells_hard_instances_from_easy_ones_before_they_are_trained(title: str) -> None:
    features, labels, trace = made_up()
    area, share, score_us, learn_us = judged(PREDICTORS[title](features, labels), trace)
    blind = title in ("mean loss of the class", "logistic on pixels and label")
    assert area > (0.55 if blind else 0.7) and 0.6 < share <= 1.0
    assert score_us > 0.0 and learn_us > 0.0


def test_a_trace_has_each_instance_once_with_the_loss_that_it_had_when_it_came() -> None:
    workload = Digits(validation=True)
    trace = train_once(workload, seed=1)
    assert len(np.unique(trace.ids)) == trace.ids.size == trace.losses.size
    first, last = trace.losses[0].mean(), trace.losses[-1].mean()
    assert first == pytest.approx(np.log(10), abs=0.2) and last < first
