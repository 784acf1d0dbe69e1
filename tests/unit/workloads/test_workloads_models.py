"""Boss models: size, shapes, and names that are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from protocol.errors import SettingError, WorkloadError
from workloads.models import BasicBlock, make_model, resnet, small_cnn


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_small_cnn_has_about_100k_parameters() -> None:
    assert 90_000 <= parameters(small_cnn(1, 28, 28, 10)) <= 120_000


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (1, 8, 8), (3, 32, 32), (1, 5, 6)])
@pytest.mark.parametrize("name", ["", "cnn", "resnet8"])
def test_output_is_one_logit_per_class(name: str, channels: int, height: int, width: int) -> None:
    model = make_model(name, channels=channels, height=height, width=width, classes=7)
    assert model(torch.randn(3, channels, height, width)).shape == (3, 7)


def test_losses_of_the_small_cnn_do_not_depend_on_the_neighbours_in_the_batch() -> None:
    """Per-instance losses are what the Assistant learns; batch norm or dropout would make them depend on the batch."""
    model = small_cnn(1, 8, 8, 10).train()
    images = torch.randn(8, 1, 8, 8)
    assert torch.allclose(model(images)[:2], model(images[:2]), atol=1e-5)


@pytest.mark.parametrize(("depth", "expected"), [(20, 269_722), (32, 464_154), (56, 853_018)])
def test_resnets_have_the_size_that_is_published(depth: int, expected: int) -> None:
    """For 3 channels and 10 classes and shortcuts without parameters (option A): 0.27, 0.46, 0.85 million."""
    model = resnet(depth, channels=3, classes=10)
    assert parameters(model) == expected
    weighted = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())
    assert weighted == depth


def test_resnet_halves_the_image_at_the_second_and_third_stage() -> None:
    """As in the paper, 32, 16, 8: without it the same parameters cost several times the work."""
    sizes: list[tuple[int, ...]] = []
    model = resnet(8, channels=3, classes=10)
    for module in model:
        if isinstance(module, BasicBlock):
            module.register_forward_hook(lambda _module, _inputs, output: sizes.append(tuple(output.shape[1:])))
    model(torch.randn(1, 3, 32, 32))
    assert sizes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize(
    ("depth", "remedy"),
    [
        (21, "resnet20 or resnet26"),
        (18, "resnet14 or resnet20"),
        (2, "use resnet8"),
        (0, "use resnet8"),
        (9, "resnet8 or"),
    ],
)
def test_a_depth_that_is_not_6n_plus_2_names_the_nearest(depth: int, remedy: str) -> None:
    with pytest.raises(SettingError, match=rf"resnet{depth}: .*6n\+2.*{remedy}"):
        make_model(f"resnet{depth}", channels=1, height=28, width=28, classes=10)


@pytest.mark.parametrize("name", ["vgg16", "resnet", "resnet20x", "CNN2"])
def test_unknown_model_lists_the_known_ones(name: str) -> None:
    with pytest.raises(WorkloadError, match=f"model '{name}' is unknown; use cnn, resnet20"):
        make_model(name, channels=1, height=28, width=28, classes=10)


def test_images_too_small_to_pool_are_refused() -> None:
    with pytest.raises(SettingError, match="3x9 are too small"):
        small_cnn(1, 3, 9, 10)


def test_the_cnn_computes_with_the_channels_last_through_forward_and_backward() -> None:
    """Half the time of a pass on the CPU."""
    model = small_cnn(1, 28, 28, 10)
    second = model[3]
    seen: list[torch.Tensor] = []
    second.register_forward_hook(lambda module, given, found: seen.append(found))
    model(torch.zeros(2, 1, 28, 28)).sum().backward()
    for tensor in (*seen, second.weight, second.weight.grad):
        assert tensor.stride()[1] == 1
