"""Settings of a run: fixed by the first Boss, kept by the broker, told to every role."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from protocol.errors import SettingError

DEFAULT_EPOCHS = 3
MAX_WINDOW = 1 << 16
"""Candidate IDs in one window."""
MAX_STEP_INSTANCES = 1 << 20
"""Instances in one global step: a batch of 12 MB on the wire."""
MAX_QUEUED_BATCHES = 1 << 12
"""Batches that may be asked to lie ready in one place."""
MAX_WINDOWS_PER_STEP = 1 << 8
"""Windows that one step may need when all of them is kept; each is a segment of the batch, at a hundredth still."""
MAX_TOKENS = (1 << 31) - 1
"""Tokens of a rank's batch; lengths are 32-bit numbers."""
POOL_BATCHES = 16
LEAST_POOL_STEPS = 4
MAX_COUNT = 1 << 62
MAX_PATH = 4096

WARMUPS = {"autoassist": 0.25, "random-drop": 0.25}
"""Epochs, where a run gives none and its policy's own are not one whole epoch; the control has the default's."""
POLICIES = (
    *("autoassist", "autoassist-paper", "uniform", "random-drop", "infobatch", "selective-backprop", "rho"),
    *("importance", "importance-gradient"),
)
"""The policies that are built in; docs/POLICIES.md has the formula and the source of each."""
WEIGHED_POLICIES = ("infobatch", "importance", "importance-gradient")
"""Those whose method includes the weights 1/π."""
POLICY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Switch = Literal["auto", "on", "off"]


def require(condition: bool, name: str, value: object, remedy: str) -> None:
    """Raise SettingError ``name=value: remedy`` unless ``condition`` holds."""
    if not condition:
        raise SettingError(f"{name}={value}: {remedy}")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run is; two roles of one run never differ in any of it."""

    policy: str = "autoassist"
    """Rule that turns what is known of an instance into its keep probability: autoassist, autoassist-paper, uniform,
    random-drop, infobatch, selective-backprop, rho, importance, importance-gradient, or one that an installed package
    registers under the entry points autoassist.policies."""

    epochs: int | None = None
    """Offerings of the whole training set; 3 where boss_instances is not given either."""

    boss_instances: int | None = None
    """The other way to say how long: stop after this many instances were trained."""

    batch_size: int = 64
    """Instances per step and rank. With max_tokens what is given here plays no part: it becomes their number on the
    average, by which stock, credit and windows are sized."""

    max_tokens: int | None = None
    """Most tokens of a rank's batch, padding counted: rows times the longest. Batches are then cut by it from instances
    of about one length; the workload, or the script, gives the lengths. Not given: by batch_size."""

    pool_steps: int = 0
    """With max_tokens: steps' worth of instances that are sorted by length together. The more, the less is padded, and
    the longer an instance may wait: twice as many steps. 0 for sixteen batches' worth, at least four steps'."""

    world_size: int = 1
    """Boss ranks; one step trains batch_size times world_size instances."""

    seed: int = 1
    """Seed of the epoch order, of the drawing, and of the Boss."""

    window_size: int = 0
    """Candidate IDs that are leased to an Assistant at once; 0 for four steps' worth."""

    prefetch_batches: int = 8
    """Batches that lie ready at the Boss, beyond those that its script has pulled."""

    stock_batches: int = 4
    """Batches' worth of kept instances that the broker aims to hold ready."""

    staleness_bound: int = 96
    """Most steps between the last loss that a selection knew of and the step that trains it."""

    patience_s: float = 0.25
    """How long an unmet demand of the Boss waits for Assistants before a window passes unfiltered."""

    lease_s: float = 5.0
    """How long an Assistant may hold a window before it is offered to another."""

    floor: float | None = None
    """Least keep probability of any instance (exploration); if not given the policy's own: 0.1, and 0.3 for
    autoassist-paper."""

    gate: bool = True
    """Shrink only while the policy's measured lift is clearly positive; without it a published rule is applied bare."""

    warmup_epochs: float | None = None
    """Epochs at the beginning in which everything passes; if not given the policy's own: 0.25 for autoassist and
    random-drop, 1 for the others. With a fraction selection begins within an epoch."""

    anneal_share: float = 0.125
    """Share of the run at its end in which everything passes again."""

    drop_rate: float = 0.5
    """Share that is left out: of all by random-drop, of those below the mean loss by infobatch, of the lower ranks by
    rho, on the average by importance."""

    power: float = 1.0
    """Exponent β of selective-backprop: the higher, the fewer are kept."""

    irreducible_losses: str = ""
    """File for rho: the loss of each instance under a model that was trained on other data, shape (n,), as .npy; its
    path where the Assistants run."""

    weights: Switch = "auto"
    """Whether the mean that the Boss trains on weighs each loss by 1/π, which undoes the selection's bias; auto for the
    policies whose method that is (infobatch, importance)."""

    weight_clip: float = 10.0
    """Largest such weight, before the weights of a batch are brought to mean 1."""

    class_floor: float = 0.0
    """No class falls below this share of its frequency among the kept; needs a workload with labels. 0 for no care."""

    noise_guard: Switch = "auto"
    """Set aside, at a keep probability of 0.05, what stays above the loss of an untrained Boss three times in a row: it
    is wrongly labelled more often than informative. Holds in the anneal too. auto acts only where that is more than
    2.5 % of all instances of a Boss that has learned, and leaves the published rules and the controls as they are."""

    deterministic: bool = False
    """No clocks in any decision: two runs of one seed draw identical batches. The Boss may wait for an Assistant."""

    assistants: int = 1
    """Assistants that share the windows in deterministic mode (window j goes to number j mod assistants)."""

    def __post_init__(self) -> None:
        self._require_types()
        is_name = POLICY_NAME.fullmatch(self.policy) is not None
        require(is_name, "policy", self.policy, f"no policy's name; one of {', '.join(POLICIES)}, or one of your own")
        both = self.epochs is not None and self.boss_instances is not None
        require(not both, "epochs", self.epochs, f"boss_instances={self.boss_instances} is given too; give only one")
        for name in (
            "batch_size",
            "world_size",
            "prefetch_batches",
            "stock_batches",
            "staleness_bound",
            "assistants",
            "epochs",
            "boss_instances",
            "max_tokens",
        ):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "must be at least 1")
            require(value is None or value <= MAX_COUNT, name, value, f"must be at most {MAX_COUNT}")
        warmup = self.warmup
        require(math.isfinite(warmup), "warmup_epochs", warmup, "must be a number of epochs")
        require(warmup >= 0, "warmup_epochs", warmup, "must not be negative")
        require(warmup <= MAX_COUNT, "warmup_epochs", warmup, f"must be at most {MAX_COUNT}")
        for name in ("window_size", "seed", "pool_steps"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        require(self.seed < 2**63, "seed", self.seed, "must be below 2**63")
        for name in ("patience_s", "lease_s"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, name, value, "must be a positive number of seconds")
        self._require_selection()
        if self.warmup_epochs is not None and warmup == int(warmup):  # on the wire as when it had to be whole
            object.__setattr__(self, "warmup_epochs", int(warmup))
        self._require_sizes()
        depth = self.pipeline_steps
        pool = f" + twice pool_steps {self.pool_depth}" if self.pool_depth else ""
        require(
            depth <= self.staleness_bound,
            "staleness_bound",
            self.staleness_bound,
            f"the pipeline alone is {depth} steps deep (prefetch_batches {self.prefetch_batches} + stock_batches "
            f"{self.stock_batches} + window {self.window_steps}{pool} + 1); raise the bound or lower these",
        )

    def _require_selection(self) -> None:
        require(self.floor is None or 0.0 < self.floor <= 1.0, "floor", self.floor, "must lie in (0, 1]")
        require(0.0 <= self.drop_rate < 1.0, "drop_rate", self.drop_rate, "must lie in [0, 1)")
        for name in ("anneal_share", "class_floor"):
            require(0.0 <= getattr(self, name) <= 1.0, name, getattr(self, name), "must lie in [0, 1]")
        require(math.isfinite(self.power) and self.power > 0, "power", self.power, "must be a positive number")
        clip = self.weight_clip
        require(math.isfinite(clip) and clip >= 1.0, "weight_clip", clip, "must be a number of at least 1")
        known = get_args(Switch)
        for name in ("weights", "noise_guard"):
            require(getattr(self, name) in known, name, getattr(self, name), f"must be one of {', '.join(known)}")
        needs_file = self.policy == "rho" and not self.irreducible_losses
        require(not needs_file, "irreducible_losses", "", "policy rho needs them; give --irreducible-losses FILE.npy")
        length = len(self.irreducible_losses)
        require(length <= MAX_PATH, "irreducible_losses", f"… ({length} letters)", f"must have at most {MAX_PATH}")

    def _require_types(self) -> None:
        """A whole number given as 64.0, or a switch given as 1, would be refused by the broker much later."""
        kinds = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), str(field.type).replace("Switch", "str")
            if value is None and kind.endswith(" | None"):
                continue
            kind = kind.removesuffix(" | None")
            given = type(value).__name__
            fits = given == kind or (kind, given) == ("float", "int")
            require(fits, field.name, repr(value), f"must be {kinds[kind]} (Python's {kind}), not {given}")

    def _require_sizes(self) -> None:
        require(self.window_size <= MAX_WINDOW, "window_size", self.window_size, f"exceeds {MAX_WINDOW}; lower it")
        require(
            self.step_instances <= MAX_STEP_INSTANCES,
            "batch_size",
            self.batch_size,
            f"times world_size {self.world_size} exceeds {MAX_STEP_INSTANCES} instances per step; lower one of them",
        )
        require(
            self.step_instances <= MAX_WINDOWS_PER_STEP * self.window_instances,
            "window_size",
            self.window_size,
            f"makes more than {MAX_WINDOWS_PER_STEP} windows per step; raise it",
        )
        tokens = self.max_tokens
        require(tokens is None or tokens <= MAX_TOKENS, "max_tokens", tokens, f"must be at most {MAX_TOKENS}")
        require(not self.pool_steps or tokens is not None, "pool_steps", self.pool_steps, "is for --max-tokens alone")
        for name in ("prefetch_batches", "stock_batches", "pool_steps"):
            value = getattr(self, name)
            require(value <= MAX_QUEUED_BATCHES, name, value, f"must be at most {MAX_QUEUED_BATCHES}")

    @property
    def epoch_budget(self) -> int | None:
        """Epochs of the run; None where the budget is counted in Boss instances."""
        return None if self.boss_instances is not None else self.epochs or DEFAULT_EPOCHS

    @property
    def warmup(self) -> float:
        """Epochs at the beginning in which everything passes, with the policy's own resolved."""
        return WARMUPS.get(self.policy, 1) if self.warmup_epochs is None else self.warmup_epochs

    def resolved(self) -> RunSettings:
        """As they go over the wire: an earlier version's peer takes no missing warm-up."""
        return dataclasses.replace(self, warmup_epochs=self.warmup)

    @cached_property
    def weighs(self) -> bool:
        """Whether the Boss weighs losses by 1/π, with the automatic choice resolved."""
        return self.weights == "on" or (self.weights == "auto" and self.policy in WEIGHED_POLICIES)

    @cached_property
    def step_instances(self) -> int:
        """Instances per global step."""
        return self.batch_size * self.world_size

    @cached_property
    def window_instances(self) -> int:
        """Candidate IDs per window, with the automatic choice resolved."""
        return self.window_size or min(MAX_WINDOW, 4 * self.step_instances)

    @property
    def window_steps(self) -> int:
        """Steps that a window fills when all of it is kept."""
        return -(-self.window_instances // self.step_instances)

    @cached_property
    def pool_depth(self) -> int:
        """Steps' worth of instances that are sorted by length, with the automatic choice resolved; 0 without tokens."""
        if self.max_tokens is None:
            return 0
        return self.pool_steps or max(LEAST_POOL_STEPS, -(-POOL_BATCHES // self.world_size))

    @property
    def pipeline_steps(self) -> int:
        """Staleness that the depth of the pipeline alone causes; deterministic mode learns a whole depth behind.

        An instance waits for its pool to fill, and then at most until all of it is cut.
        """
        window_steps = self.window_steps * (2 if self.deterministic else 1)
        return self.prefetch_batches + self.stock_batches + window_steps + 2 * self.pool_depth + 1

    def difference(self, other: RunSettings) -> str:
        """``name: mine here, theirs there`` for the fields that differ; empty where none does."""
        mine, theirs = self.resolved().as_dict(), other.resolved().as_dict()
        return "; ".join(f"{k}: {mine[k]} here, {theirs[k]} there" for k in mine if mine[k] != theirs[k])

    def as_dict(self) -> dict[str, Any]:
        """Field names to values, for reports."""
        return dataclasses.asdict(self)
