"""Trainings whose data lies on the device: a ResNet on Fashion-MNIST, and a Transformer on pairs of random tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from workloads.fashion_mnist import FashionMnist
from workloads.models import resnet
from workloads.text.sizes import SIZES
from workloads.text.transformer import Transformer, token_losses

PAIRS = 16_384
TOKENS = 64
SMOOTHING = 0.1


class Resident(Dataset[tuple[Tensor, Tensor]]):
    """Inputs and targets on the device, shapes (n, …), gathered there by whole batches."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor(ids).to(self.inputs.device, non_blocking=True)
        return self.inputs.index_select(0, rows), self.targets.index_select(0, rows)


def whole(batch: Any) -> Any:
    """A batch that was gathered as one, so that there is nothing to collate: two tensors."""
    return batch


@dataclass
class Training:
    """One model, its optimizer, and the data; ``losses`` of a batch have shape (batch,)."""

    data: Resident
    batch_size: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses_of: Callable[[Tensor, Tensor], Tensor]

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Forward, in bfloat16 where the device is a GPU."""
        context = torch.autocast("cuda", dtype=torch.bfloat16) if inputs.is_cuda else nullcontext()
        with context:
            outputs = self.model(inputs)
        return self.losses_of(outputs.float(), targets)

    def update(self, mean: Tensor) -> None:
        """Backward, and a step of the optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        mean.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def plain_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Of a plain DataLoader, epoch after epoch."""
        while True:
            yield from DataLoader(self.data, batch_size=self.batch_size, shuffle=True, collate_fn=whole)


def resnet_training(device: torch.device, depth: int, batch_size: int, data_dir: Path | None) -> Training:
    """A ResNet on all of Fashion-MNIST; SGD with momentum."""
    workload = FashionMnist(data_dir=data_dir)
    inputs, targets = (part.to(device) for part in workload.batch(range(workload.fingerprint().n)))
    model = resnet(depth, inputs.shape[1], workload.classes).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def losses_of(outputs: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(outputs, labels, reduction="none")

    return Training(Resident(inputs, targets), batch_size, model, optimizer, losses_of)


def transformer_training(device: torch.device, size_name: str, batch_size: int) -> Training:
    """The translation workload's Transformer on pairs of random tokens, none of them padding; AdamW."""
    size = SIZES[size_name]
    pairs = torch.randint(4, size.subwords, (PAIRS, 2, TOKENS), device=device)
    model = Transformer(size, size.subwords).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.peak_lr, betas=(0.9, 0.98))

    def losses_of(outputs: Tensor, targets: Tensor) -> Tensor:
        return token_losses(outputs, targets, smoothing=SMOOTHING)

    return Training(Resident(pairs, pairs[:, 1].contiguous()), batch_size, model, optimizer, losses_of)
