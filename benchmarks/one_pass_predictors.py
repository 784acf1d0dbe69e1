"""Cheap models that tell hard from easy among instances that the Boss has not seen, for `benchmarks.one_pass`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from assistant.classifier import LOSS_FEATURES, OwnClassifier
from assistant.condensed import condensed
from assistant.learned import HISTORY_FEATURES, LogisticModel
from assistant.policies import AutoAssist
from protocol.arrays import F32, I64
from protocol.messages import LossRecord

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


class Predictor(Protocol):
    """Scores instances, the harder the higher, and learns from reports."""

    def score(self, ids: I64) -> F32:
        """Shape ``(k,)``, in any unit."""

    def learn(self, ids: I64, losses: F32, threshold: float) -> None:
        """From one report of the Boss's losses; above ``threshold`` an instance counts as hard."""


class ClassMean:
    """The mean loss of the instance's class, forgetting 3 % a report."""

    def __init__(self, features: Features, labels: Labels) -> None:
        del features
        self.labels = labels
        self.sums, self.counts = np.ones((2, int(labels.max()) + 1), dtype=np.float32)

    def score(self, ids: I64) -> F32:
        """See the class."""
        means: F32 = self.sums / self.counts
        return means[self.labels[ids]]

    def learn(self, ids: I64, losses: F32, threshold: float) -> None:
        """See the class."""
        del threshold
        self.sums *= 0.97
        self.counts *= 0.97
        np.add.at(self.sums, self.labels[ids], losses)
        np.add.at(self.counts, self.labels[ids], 1.0)


class Distance:
    """How much nearer the mean of another class is than that of the instance's own, squared."""

    def __init__(self, features: Features, labels: Labels) -> None:
        self.features, self.labels = features, labels
        self.means = np.zeros((int(labels.max()) + 1, features.shape[1]), dtype=np.float32)
        self.counts = np.zeros(len(self.means))

    def score(self, ids: I64) -> F32:
        """See the class."""
        rows = np.arange(len(ids))
        far = (self.means**2).sum(axis=1) - 2.0 * (self.features[ids] @ self.means.T)
        own = far[rows, self.labels[ids]].copy()
        far[rows, self.labels[ids]] = np.inf
        nearer: F32 = own - far.min(axis=1)
        return nearer

    def learn(self, ids: I64, losses: F32, threshold: float) -> None:
        """See the class."""
        del losses, threshold
        for label in np.unique(self.labels[ids]):
            members = ids[self.labels[ids] == label]
            self.counts[label] += len(members)
            self.means[label] += (self.features[members] - self.means[label]).sum(axis=0) / self.counts[label]


class Logistic:
    """The policy's learned model: features and label, as the paper has it, or with a classifier's loss beside them."""

    def __init__(self, features: Features, labels: Labels, *, with_classifier: bool = False) -> None:
        self.classifier = OwnClassifier(features, labels) if with_classifier else None
        self.model = LogisticModel(features, labels, HISTORY_FEATURES + LOSS_FEATURES)

    def score(self, ids: I64) -> F32:
        """See the class."""
        return self.model.logits(ids, self._known(ids))

    def learn(self, ids: I64, losses: F32, threshold: float) -> None:
        """See the class."""
        ones = np.ones(len(ids), dtype=np.float32)
        self.model.learn(ids, self._known(ids), (losses > threshold).astype(np.float32), ones)
        if self.classifier is not None:
            self.classifier.learn(ids, ones)

    def _known(self, ids: I64) -> F32:
        known = np.zeros((len(ids), HISTORY_FEATURES + LOSS_FEATURES), dtype=np.float32)
        if self.classifier is not None:
            known[:, HISTORY_FEATURES:] = self.classifier.loss_features(ids)
        return known


class Default:
    """The default policy as it is: its regression on its learned model and its classifier, features condensed."""

    def __init__(self, features: Features, labels: Labels) -> None:
        self.policy = AutoAssist(len(features), floor=0.1, features=features, labels=labels)
        self.reports = 0

    def score(self, ids: I64) -> F32:
        """See the class."""
        return self.policy.expected_losses(ids, 0)

    def learn(self, ids: I64, losses: F32, threshold: float) -> None:
        """See the class."""
        del threshold
        self.policy.observe(
            LossRecord(
                position=self.reports,
                step=self.reports,
                rank=0,
                learned_through=self.reports,
                epoch=0,
                ids=ids,
                losses=losses,
                keep_probabilities=np.ones(len(ids), dtype=np.float32),
            )
        )
        self.reports += 1


class ClassifierLoss:
    """The loss of a softmax regression of its own: on features, their components, or fixed random ones, relu(R·x)."""

    def __init__(
        self, features: Features, labels: Labels, *, random_features: int = 0, components: bool = False
    ) -> None:
        if components:
            features = condensed(features)
        if random_features:
            rng, width = np.random.default_rng(0), features.shape[1]
            projection = (rng.normal(size=(width, random_features)) / width**0.5).astype(np.float32)
            features = np.maximum(features @ projection, 0.0) * np.float32(2**0.5)
        self.classifier = OwnClassifier(features, labels)

    def score(self, ids: I64) -> F32:
        """See the class."""
        return self.classifier.losses(ids)

    def learn(self, ids: I64, losses: F32, threshold: float) -> None:
        """See the class."""
        del losses, threshold
        self.classifier.learn(ids, np.ones(len(ids), dtype=np.float32))


class HiddenLayer:
    """A network of one hidden layer, by Adam: its own loss as a classifier, or, ``directly``, whether it is hard."""

    def __init__(self, features: Features, labels: Labels, *, width: int = 64, directly: bool = False) -> None:
        rng, inputs, classes = np.random.default_rng(0), features.shape[1], int(labels.max()) + 1
        self.features, self.labels, self.directly = features, labels, directly
        second = np.zeros((width, classes)) if directly else rng.normal(size=(width, classes)) / width**0.5
        first = rng.normal(size=(inputs, width)) * (2.0 / inputs) ** 0.5
        self.parts = [v.astype(np.float32) for v in (first, np.zeros(width), second, np.zeros(classes))]
        self.moments = [(np.zeros_like(v), np.zeros_like(v)) for v in self.parts]
        self.steps = 0

    def score(self, ids: I64) -> F32:
        """See the class."""
        logits = self._forward(ids)[2]
        own: F32 = logits[np.arange(len(ids)), self.labels[ids]]
        return own if self.directly else np.log(np.exp(logits - own[:, None]).sum(axis=1))

    def learn(self, ids: I64, losses: F32, threshold: float) -> None:
        """See the class."""
        x, hidden, logits = self._forward(ids)
        place = np.arange(len(ids)), self.labels[ids]
        if self.directly:
            residuals = np.zeros_like(logits)
            residuals[place] = 1.0 / (1.0 + np.exp(-logits[place])) - (losses > threshold)
        else:
            residuals = np.exp(logits - logits.max(axis=1, keepdims=True))
            residuals /= residuals.sum(axis=1, keepdims=True)
            residuals[place] -= 1.0
        residuals /= len(ids)
        back = (residuals @ self.parts[2].T) * (hidden > 0)
        self._step([x.T @ back, back.sum(axis=0), hidden.T @ residuals, residuals.sum(axis=0)])

    def _forward(self, ids: I64) -> tuple[F32, F32, F32]:
        x = self.features[ids]
        hidden = np.maximum(x @ self.parts[0] + self.parts[1], 0.0)
        return x, hidden, hidden @ self.parts[2] + self.parts[3]

    def _step(self, gradients: list[F32]) -> None:
        self.steps += 1
        for values, moments, gradient in zip(self.parts, self.moments, gradients, strict=True):
            first, second = moments
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient * gradient - second)
            scale = np.sqrt(second / (1.0 - 0.999**self.steps)) + 1e-8
            np.subtract(values, 2e-3 * first / (1.0 - 0.9**self.steps) / scale, out=values)


PREDICTORS: dict[str, Callable[[Features, Labels], Predictor]] = {
    "mean loss of the class": ClassMean,
    "logistic on pixels and label": Logistic,
    "distance to the means of the classes": Distance,
    "one hidden layer of 64, hard or not": lambda x, y: HiddenLayer(x, y, directly=True),
    "loss of a softmax regression": ClassifierLoss,
    "the same on 64 principal components": lambda x, y: ClassifierLoss(x, y, components=True),
    "the same on 512 random features": lambda x, y: ClassifierLoss(x, y, random_features=512),
    "loss of a hidden layer of 64": HiddenLayer,
    "logistic, with the regression's loss": lambda x, y: Logistic(x, y, with_classifier=True),
    "**the default policy**": Default,
}
