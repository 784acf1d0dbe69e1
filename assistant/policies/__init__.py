"""Rules that turn what is known of an instance into its keep probability π; docs/POLICIES.md describes each."""

from assistant.policies.base import Given, Moment, Policy
from assistant.policies.controls import RandomDrop, Uniform
from assistant.policies.history import Importance, ImportanceGradient, InfoBatch, LastLossPolicy, Rho, SelectiveBackprop
from assistant.policies.paper import AutoAssistPaper
from assistant.policies.predicted import AutoAssist
from assistant.policies.registry import find_policy, make_policy, require_policy, takes_fresh_losses
from assistant.policies.shared import Guarded

__all__ = [
    "AutoAssist",
    "AutoAssistPaper",
    "Given",
    "Guarded",
    "Importance",
    "ImportanceGradient",
    "InfoBatch",
    "LastLossPolicy",
    "Moment",
    "Policy",
    "RandomDrop",
    "Rho",
    "SelectiveBackprop",
    "Uniform",
    "find_policy",
    "make_policy",
    "require_policy",
    "takes_fresh_losses",
]
