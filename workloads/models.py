"""Boss models for images: a small CNN that trains on two CPU cores, and CIFAR-style ResNets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protocol.errors import SettingError
from workloads.model_names import check_depth, check_model


def make_model(name: str, *, channels: int, height: int, width: int, classes: int) -> nn.Module:
    """The model that ``--model`` names: "" or ``cnn`` for the small CNN, ``resnet20``, ``resnet32`` … for a ResNet.

    Raises:
        WorkloadError: no such model.
        SettingError: a ResNet depth that is not 6n+2.
    """
    depth = check_model(name)
    if depth is None:
        return small_cnn(channels, height, width, classes)
    return resnet(depth, channels, classes)


def small_cnn(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    """Two convolutions and two linear layers; 105,866 parameters for 1×28×28 and 10 classes.

    No dropout and no batch norm: the loss of an instance depends on that instance and the weights alone, never on its
    neighbours in the batch, so what the Assistant learns from is not noise of the batch's making. Weights lie in memory
    with the channels last: on the CPU that halves the time of a pass.
    Input ``(batch, channels, height, width)`` float32, output ``(batch, classes)`` logits; sides of at least 4.

    Raises:
        SettingError: the images are too small to be pooled twice.
    """
    if min(height, width) < 4:
        raise SettingError(f"images of {height}x{width} are too small for the cnn; use sides of at least 4")
    model = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 64),
        nn.ReLU(inplace=True),
        nn.Linear(64, classes),
    )
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def resnet(depth: int, channels: int, classes: int) -> nn.Sequential:
    """A ResNet for small images (He et al. 2016, section 4.2): 6n+2 layers, 16, 32 and 64 channels, a 3×3 stem.

    It has batch norm, as in the paper that it follows. Input ``(batch, channels, height, width)`` float32 of any size,
    output ``(batch, classes)`` logits.

    Raises:
        SettingError: ``depth`` is not 6n+2, n ≥ 1.
    """
    blocks_per_stage = (check_depth(depth) - 2) // 6
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
    ]
    width = 16
    for stage_width in (16, 32, 64):
        for block in range(blocks_per_stage):
            stride = 2 if block == 0 and stage_width != 16 else 1
            layers.append(BasicBlock(width, stage_width, stride))
            width = stage_width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, and a shortcut without parameters (option A of the paper)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.stride = stride
        self.extra_channels = width_out - width_in

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, width_in, h, w)`` to ``(batch, width_out, ⌈h/stride⌉, ⌈w/stride⌉)``."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.extra_channels:
            half = self.extra_channels // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, half, self.extra_channels - half))
        return F.relu(y + shortcut)
