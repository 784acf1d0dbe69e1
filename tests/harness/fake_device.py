"""A device that is none: it refuses to be waited for, and gets on with its work as far as a test says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from boss.reporter import Reporter

WAITS = ("item", "cpu", "numpy", "tolist", "__bool__", "__float__", "__int__", "__array__", "nonzero")


class OnDevice(Tensor):
    """A tensor on a fake device. It knows only copies in the background: from there the host has no way to a value."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.is_cpu.__get__, Tensor.is_cuda.__get__):  # type: ignore[attr-defined]
            return func == Tensor.is_cuda.__get__  # type: ignore[attr-defined]
        copies = func.__name__ in ("copy_", "to") and _leaves(args)
        # Where the dtypes differ, CUDA copies by way of memory that is not pinned, and waits for that.
        as_it_is = func.__name__ != "copy_" or args[0].dtype == args[1].dtype
        if func.__name__ in WAITS or (copies and not (kwargs.get("non_blocking") and as_it_is)):
            raise AssertionError(f"{func.__name__} waits for the device")
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


def _leaves(args: Any) -> bool:
    """Whether a copy goes from the device to the host: one of the values alone changes no place."""
    to, *given = args
    return not isinstance(to, OnDevice) or any(str(one).startswith("cpu") for one in given)


class Stream:
    """Copies are launched on it, and ``done`` says how many of them the device has got through."""

    def __init__(self, device: int = 0) -> None:
        self.device = torch.device("cuda", device)
        self.launched = 0
        self.done = 0


class Event:
    """Behind what was launched before it was recorded."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def record(self, stream: Stream) -> None:
        """See torch.Event."""
        assert stream.device == self.device
        self.stream, self.behind = stream, stream.launched

    def query(self) -> bool:
        """See torch.Event."""
        return self.stream.done >= self.behind


class FakeDevice:
    """What torch shows of it; ``stream`` is the current one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream = Stream()
        self.opened: list[int] = []
        """Devices that a thread was set to."""
        self.pinned: list[int] = []
        """Sizes of the buffers that were pinned."""
        monkeypatch.setattr(torch, "Event", Event)
        monkeypatch.setattr(torch.accelerator, "current_stream", self._current_stream)
        monkeypatch.setattr(torch.accelerator, "set_device_index", self.opened.append)
        monkeypatch.setattr(OnDevice, "get_device", lambda _: self.stream.device.index, raising=False)
        monkeypatch.setattr(Reporter, "_pinned", self._pinned)

    def _current_stream(self, index: int) -> Stream:
        """Asked for behind each copy."""
        assert index == self.stream.device.index
        self.stream.launched += 1
        return self.stream

    def _pinned(self, size: int) -> Tensor:
        self.pinned.append(size)
        return torch.empty(size)


def on_device(values: Tensor) -> Tensor:
    """As if it lay there."""
    return values.as_subclass(OnDevice)
