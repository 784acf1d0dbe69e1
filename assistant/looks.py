"""What instances look like to the Assistant's own models: all that can be said of one before it has a loss.

Features of many instances do not fit a processor's cache, so that fetching a row costs as much as all that is done with
it. They are therefore condensed where they are many, each report and each window fetches its rows once, and one matrix
product serves both models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assistant.classifier import LOSS_FEATURES, OwnClassifier, columns_of, losses_of
from assistant.condensed import condensed
from assistant.estimates import State, Stateful, gather, scatter
from assistant.learned import LogisticModel
from assistant.scales import column_scales, rows_of
from protocol.arrays import F32, I64, empty_f32
from protocol.sparse import Features

AT_ONCE = 4
"""Rows of a product that are made together: one of 11 takes longer than one of 12."""


class Looks(NamedTuple):
    """Of k instances."""

    ids: I64
    rows: Features | None
    """Their features, shape ``(k, d)``; None without any."""
    odds: F32
    """Of the classes against the instance's own, by the classifier, shape ``(classes, k)``; empty without one."""
    products: F32 | None
    """w·x of the learned model, shape ``(k,)``; None without features."""
    losses: F32 | None
    """Under the classifier; None without one."""
    told: F32
    """What the learned model takes of them, shape ``(k, 2)``; ``(k, 0)`` without a classifier."""


class OwnModels:
    """The learned model, and the classifier where there is something to classify; their weights lie in one matrix."""

    def __init__(self, features: Features | None, labels: NDArray[np.int64] | None) -> None:
        scales = column_scales(features) if features is not None else None
        self.features = condensed(features, scales) if isinstance(features, np.ndarray) else features
        # Components are of one size already.
        is_to_scale = scales is not None and self.features is not None and self.features.shape[1] == len(scales)
        self._scales = scales if is_to_scale else None
        self.classifier = OwnClassifier.where_possible(self.features, labels)
        self.learned = LogisticModel(self.features, labels, LOSS_FEATURES if self.classifier is not None else 0)
        if self.classifier is not None:
            width, classes = self.classifier.weights.shape
            self._weights = np.zeros((padded(classes + 1), width), dtype=np.float32)
            self.classifier.weights, self.learned.w = self._weights[:classes].T, self._weights[classes]

    def _parts(self) -> dict[str, Stateful]:
        return {"learned": self.learned} | ({} if self.classifier is None else {"classifier": self.classifier})

    def state_dict(self) -> State:
        """That of both."""
        return gather(self._parts())

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        scatter(self._parts(), state)

    def look(self, ids: I64) -> Looks:
        """At some instances, as the models are now."""
        if self.features is None:
            return Looks(ids, None, empty_f32(), None, None, np.zeros((len(ids), 0), dtype=np.float32))
        if self.classifier is None or not isinstance(self.features, np.ndarray):
            rows = rows_of(self.features, ids, self._scales)
            products: F32 = rows @ self.learned.w
            return Looks(ids, rows, empty_f32(), products, None, np.zeros((len(ids), 0), dtype=np.float32))
        x = rows_of(self.features, ids, self._scales)
        assert isinstance(x, np.ndarray)
        # Each class's numbers side by side: sums over the classes are ten times as fast.
        found: F32 = self._weights @ x.T
        classes = self.classifier.classes
        odds = self.classifier.odds(found[:classes], ids)
        losses = losses_of(odds)
        return Looks(ids, x, odds, found[classes], losses, columns_of(losses))

    def predict(self, looks: Looks) -> F32:
        """q_i of the learned model, shape ``(k,)``."""
        return self.learned.predict(looks.ids, looks.told, looks.products)

    def learn(self, looks: Looks, targets: F32, weights: F32) -> None:
        """One step of each; ``looks`` must be as the models are now, ``weights`` are 1/π."""
        self.learned.learn(looks.ids, looks.told, targets, weights, rows=looks.rows, products=looks.products)
        if self.classifier is not None:
            assert isinstance(looks.rows, np.ndarray)
            self.classifier.learn_from(looks.rows, looks.odds, looks.ids, weights)


def padded(rows: int) -> int:
    """Rows of a product that has at least these, and takes no longer."""
    return -(-rows // AT_ONCE) * AT_ONCE
