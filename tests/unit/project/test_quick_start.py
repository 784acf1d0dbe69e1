"""What makes the tests' processes start sooner changes nothing else in them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

OPTIMIZER = """
import sys, torch
net = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
net(torch.ones(2)).sum().backward()
before = net.bias.item()
optimizer.step()
optimizer.zero_grad()
print("torch._dynamo" in sys.modules, round(before - net.bias.item(), 5), net.bias.grad, torch.is_grad_enabled())
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, without what it does to imports."""
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    return importlib.import_module("tests.harness.quick_start.sitecustomize")


def test_an_optimizer_of_a_tests_process_trains_without_loading_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", OPTIMIZER], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "0.5", "None", "True"], done.stdout


@pytest.mark.parametrize("loaded", [False, True])
def test_a_function_is_as_torch_has_made_it_once_the_compiler_is_loaded(
    quick: ModuleType, monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    if loaded:
        monkeypatch.setitem(sys.modules, quick.COMPILER, ModuleType("compiler"))
    else:
        monkeypatch.delitem(sys.modules, quick.COMPILER, raising=False)

    def made(function: Any, recursive: bool = True) -> Any:
        return lambda *given: ("torch", recursive, *given)

    def plain(*given: Any) -> Any:
        return ("plain", *given)

    def step(optimizer: Any, closure: Any) -> Any:
        return ("plain", closure)

    disable = quick.disable_lazily(made)
    optimizer = SimpleNamespace(defaults={"differentiable": False})
    assert disable(plain)(1) == (("torch", True, 1) if loaded else ("plain", 1))
    assert disable(recursive=False)(plain)(1) == (("torch", False, 1) if loaded else ("plain", 1))
    assert quick.step_lazily(made)(step)(optimizer, 2) == (("torch", True, optimizer, 2) if loaded else ("plain", 2))
