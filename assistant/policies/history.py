"""Published rules that know each instance by its last loss alone. An instance without one passes.

Their authors apply most of them to fresh losses or between epochs; here they work on what the Boss last reported, as
every policy does, so that none costs a forward pass. docs/POLICIES.md says where that differs from the paper.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from assistant.estimates import RecentLosses, RunningMean, RunningQuantile, State, Stateful, gather, scatter
from assistant.instances import InstanceStore
from assistant.policies.base import Given, Moment, Policy
from assistant.tables import Tables
from protocol.arrays import F32, I64
from protocol.errors import SettingError
from protocol.messages import LossRecord

CDF_SAMPLE = 1024
"""Losses that the distribution of selective-backprop is made of, as in its authors' code."""


class LastLossPolicy(Policy):
    """Keeps the last loss of each instance; a rule says what it is worth."""

    wants_noise_guard: ClassVar[bool] = False

    def __init__(self, n: int, tables: Tables | None = None) -> None:
        self.instances = InstanceStore(n, smoothing=1.0, tables=tables)

    @abstractmethod
    def rule(self, ids: I64, last_losses: F32) -> F32:
        """π of instances that have a last loss, shape ``(k,)``."""

    @abstractmethod
    def estimator(self) -> Stateful:
        """What the rule compares a loss with."""

    @abstractmethod
    def estimate(self, record: LossRecord, weights: F32) -> None:
        """Learn what to compare with; called before the record's losses become the last ones. ``weights`` are 1/π."""

    def _parts(self) -> dict[str, Stateful]:
        return {"instances": self.instances, "estimator": self.estimator()}

    def state_dict(self) -> State:
        """The last losses, and what they are compared with."""
        return gather(self._parts())

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        scatter(self._parts(), state)

    def observe(self, record: LossRecord) -> None:
        """Take the losses in."""
        self.estimate(record, (1.0 / record.keep_probabilities).astype(np.float32))
        self.instances.record(record.ids, record.losses, record.epoch)

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        """By the rule where there is a last loss."""
        del moment
        keep = np.ones(len(ids), dtype=np.float32)
        found = self.instances.look_up(ids)
        known = found.is_seen
        if known.any():
            keep[known] = self.rule(ids[known], found.last_loss[known])
        return keep


class TableMean:
    """Mean of the last losses over all instances that have one, kept up at the cost of the report alone."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def state_dict(self) -> State:
        """Everything that ``replace`` has changed."""
        return {"sum": np.array([self._sum]), "count": np.array([self._count])}

    def load_state_dict(self, state: State) -> None:
        """The inverse of ``state_dict``."""
        self._sum, self._count = float(state["sum"][0]), int(state["count"][0])

    def replace(self, instances: InstanceStore, ids: I64, losses: F32) -> None:
        """These losses become the last ones of ``ids``; of one that occurs twice, its last."""
        _, from_behind = np.unique(ids[::-1], return_index=True)
        places = len(ids) - 1 - from_behind
        found, new = ids[places], losses[places].astype(np.float64)
        before = instances.look_up(found)
        known = before.is_seen
        self._sum += float(new.sum() - before.last_loss[known].sum(dtype=np.float64))
        self._count += int((~known).sum())

    @property
    def value(self) -> float:
        """The mean; infinite while there is none."""
        return self._sum / self._count if self._count else float("inf")


class InfoBatch(LastLossPolicy):
    """π_i = 1 - r where the last loss lies below the mean of all last losses, else 1; survivors weigh 1/(1 - r).

    Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", ICLR 2024 (arXiv 2303.04947);
    r = 0.5, and full data for the last eighth (their δ = 0.875). They fix who is pruned at the beginning of
    each epoch; here the mean moves with every report. Their weights are not brought to mean 1 within a batch.
    """

    default_floor = 0.0

    def __init__(self, n: int, *, drop_rate: float, tables: Tables | None = None) -> None:
        super().__init__(n, tables)
        self.drop_rate = drop_rate
        self.mean = TableMean()

    @classmethod
    def make(cls, given: Given) -> InfoBatch:
        """With the run's drop rate."""
        return cls(given.n, drop_rate=given.settings.drop_rate, tables=given.tables)

    def estimator(self) -> Stateful:
        """The mean of all last losses."""
        return self.mean

    def estimate(self, record: LossRecord, weights: F32) -> None:
        """The mean of the last losses, each instance counting once."""
        del weights
        self.mean.replace(self.instances, record.ids, record.losses)

    def rule(self, ids: I64, last_losses: F32) -> F32:
        """See the class."""
        del ids
        return np.where(last_losses < self.mean.value, 1.0 - self.drop_rate, 1.0).astype(np.float32)


class SelectiveBackprop(LastLossPolicy):
    """π_i = CDF(last loss of i)^β, the CDF that of the last 1,024 losses of the unbiased stream.

    Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019 (arXiv 1910.00762);
    with last losses instead of a forward pass, which is their "StaleSB". β = 1 keeps half, 2 a third.
    """

    def __init__(self, n: int, *, power: float, tables: Tables | None = None) -> None:
        super().__init__(n, tables)
        self.power = power
        self.recent = RecentLosses(CDF_SAMPLE)

    @classmethod
    def make(cls, given: Given) -> SelectiveBackprop:
        """With the run's power."""
        return cls(given.n, power=given.settings.power, tables=given.tables)

    def estimator(self) -> Stateful:
        """The recent losses."""
        return self.recent

    def estimate(self, record: LossRecord, weights: F32) -> None:
        """The distribution of losses."""
        self.recent.add(record.losses, weights)

    def rule(self, ids: I64, last_losses: F32) -> F32:
        """See the class."""
        del ids
        keep: F32 = self.recent.share_up_to(last_losses) ** np.float32(self.power)
        return keep


class Rho(LastLossPolicy):
    """π_i = 1 where the reducible loss, last loss - irreducible loss, is in the upper share 1 - r of all, else γ.

    Mindermann et al., "Prioritized Training on Points that are Learnable, Worth Learning, and not yet Learnt", ICML
    2022 (arXiv 2206.07137). The irreducible loss of an instance is its loss under a model that was trained on other
    data (``workloads.irreducible`` makes them). They take the best tenth of each batch after a fresh forward pass; here
    the quantile is that of the last 4,096 reducible losses, 1/π-weighted. The gate judges by the reducible loss too.
    """

    def __init__(
        self,
        irreducible_losses: NDArray[np.float32],
        *,
        drop_rate: float,
        floor: float,
        tables: Tables | None = None,
    ) -> None:
        super().__init__(len(irreducible_losses), tables)
        self.irreducible_losses = irreducible_losses
        self.floor = floor
        self.threshold = RunningQuantile(drop_rate)

    @classmethod
    def make(cls, given: Given) -> Rho:
        """With the run's file of irreducible losses; raises SettingError."""
        settings = given.settings
        irreducible = read_irreducible_losses(settings.irreducible_losses, given.n)
        return cls(irreducible, drop_rate=settings.drop_rate, floor=given.floor, tables=given.tables)

    def utility(self, ids: I64, losses: F32) -> F32:
        """The reducible loss."""
        return losses - self.irreducible_losses[ids]

    def estimator(self) -> Stateful:
        """The quantile of reducible losses."""
        return self.threshold

    def estimate(self, record: LossRecord, weights: F32) -> None:
        """The quantile of reducible losses."""
        self.threshold.add(self.utility(record.ids, record.losses), weights)

    def rule(self, ids: I64, last_losses: F32) -> F32:
        """See the class."""
        is_learnable = self.utility(ids, last_losses) >= self.threshold.value
        return np.where(is_learnable, 1.0, self.floor).astype(np.float32)


def read_irreducible_losses(path: str, n: int) -> NDArray[np.float32]:
    """The array of a file, shape (n,); raises SettingError where it is none, or has another shape."""
    name = f"irreducible_losses={path}"
    try:
        with Path(path).open("rb") as file:
            found = np.load(file, allow_pickle=False)
    except OSError as error:
        raise SettingError(f"{name}: cannot be read ({error}); give a .npy file of {n} losses") from None
    except (ValueError, EOFError, BadZipFile) as error:  # NumPy's words advise to unpickle what may be anybody's
        remedy = f"write one with numpy.save: an array of {n} losses, one for each instance"
        raise SettingError(f"{name}: is no .npy file of numbers; {remedy}") from error
    if not isinstance(found, np.ndarray) or found.shape != (n,) or found.dtype.kind not in "fiu":
        shape = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise SettingError(f"{name}: is {shape}, expected one number for each of the {n} instances")
    if not np.isfinite(found).all():
        raise SettingError(
            f"{name}: instance {int(np.argmin(np.isfinite(found)))} has no finite loss; correct the file"
        )
    return found.astype(np.float32)


class Importance(LastLossPolicy):
    """π_i = (1 - r)·loss_i / T̄, within [γ, 1], T̄ the running mean of the unbiased stream; survivors weigh 1/π.

    Importance sampling by the loss: Zhao and Zhang, "Stochastic Optimization with Importance Sampling", ICML 2015
    (arXiv 1401.2753); Katharopoulos and Fleuret, ICML 2018. As a drawing of its own for each instance, at a mean rate
    of at most 1 - r, it is unbiased up to the clip of the weights, and exactly so while γ ≥ 1 / clip.
    """

    def __init__(self, n: int, *, drop_rate: float, tables: Tables | None = None) -> None:
        super().__init__(n, tables)
        self.drop_rate = drop_rate
        self.mean = RunningMean()

    @classmethod
    def make(cls, given: Given) -> Importance:
        """With the run's drop rate."""
        return cls(given.n, drop_rate=given.settings.drop_rate, tables=given.tables)

    def importance(self, losses: F32) -> F32:
        """What π is proportional to, shape ``(k,)``."""
        importance: F32 = np.maximum(losses, 0.0)
        return importance

    def estimator(self) -> Stateful:
        """The mean importance."""
        return self.mean

    def estimate(self, record: LossRecord, weights: F32) -> None:
        """The mean importance."""
        self.mean.add(self.importance(record.losses), weights)

    def rule(self, ids: I64, last_losses: F32) -> F32:
        """See the class."""
        del ids
        scale = (1.0 - self.drop_rate) / max(self.mean.value, 1e-12)
        keep: F32 = (scale * self.importance(last_losses)).astype(np.float32)
        return keep


class ImportanceGradient(Importance):
    """``Importance`` by a bound of the gradient's norm, for cross-entropy losses: π_i ∝ 1 - exp(-loss_i).

    Katharopoulos and Fleuret, "Not All Samples Are Created Equal", ICML 2018 (arXiv 1803.00942): up to a constant the
    norm is at most that of the gradient at the last layer's outputs, ‖softmax - onehot‖, which lies between 1 and √2
    times the probability missed, 1 - exp(-loss). So the loss alone gives it, and nothing more must be reported.
    """

    def importance(self, losses: F32) -> F32:
        """1 - exp(-loss)."""
        importance: F32 = -np.expm1(-np.maximum(losses, 0.0))
        return importance
