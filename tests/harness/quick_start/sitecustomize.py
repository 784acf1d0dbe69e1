"""In each Python process that a test starts: an optimizer does not load torch's compiler, which takes a second.

It would load it only to keep it out of itself. Where nobody else has loaded it, it is out; where somebody has, all is
as torch has made it.
"""

from __future__ import annotations

import sys
from functools import partial, wraps
from importlib.util import find_spec
from typing import Any

COMPILER = "torch._dynamo"


def disable_lazily(disable: Any) -> Any:
    """For ``torch._compile._disable_dynamo``: what it makes of a function is taken once there is a compiler."""

    def lazy(fn: Any = None, recursive: bool = True) -> Any:
        if fn is None:
            return partial(lazy, recursive=recursive)
        disabled = disable(fn, recursive)

        @wraps(fn)
        def call(*given: Any, **options: Any) -> Any:
            return (disabled if COMPILER in sys.modules else fn)(*given, **options)

        return call

    return lazy


def step_lazily(with_breaks: Any) -> Any:
    """For the decorator of ``Optimizer.step``: no break in the compiler's graph without a compiler."""
    import torch

    def lazy(step: Any) -> Any:
        broken = with_breaks(step)

        @wraps(step)
        def call(self: Any, *given: Any, **options: Any) -> Any:
            if COMPILER in sys.modules:
                return broken(self, *given, **options)
            with torch.set_grad_enabled(self.defaults["differentiable"]):
                return step(self, *given, **options)

        return call

    return lazy


CHANGES: dict[str, tuple[str, Any]] = {
    "torch._compile": ("_disable_dynamo", disable_lazily),
    "torch.optim.optimizer": ("_use_grad_for_differentiable", step_lazily),
}


class Changer:
    """Finds the modules of CHANGES like everybody else, and changes one function of each when it is loaded."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name not in CHANGES:
            return None
        function, lazily = CHANGES.pop(name)
        spec: Any = find_spec(name)
        load = spec.loader.exec_module

        def load_and_change(module: Any) -> None:
            load(module)
            setattr(module, function, lazily(getattr(module, function)))

        spec.loader.exec_module = load_and_change
        return spec


sys.meta_path.insert(0, Changer())
