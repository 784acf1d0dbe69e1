"""What it costs to look at an instance ahead of the Boss, in each form of the forward pass, beside a training step.

    python -m benchmarks.look_ahead [--workload rotated-mnist] [--json FILE]

One process, one thread, its CPU time: a network is trained for some hundred steps, as a Boss is, then the losses of
instances that it has not trained are computed as an Assistant looks ahead, in turns.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from assistant.ahead import CHUNK
from assistant.forward import FORMS, CheapForward
from benchmarks.common import machine, print_table, spread
from boss.train import seed_everything
from protocol.settings import require
from workloads import Workload, load_workload

Compute = Callable[[Tensor, Tensor], Tensor]
AS_IT_STANDS = "as it stands"


@dataclass(frozen=True, kw_only=True)
class LookAheadCosts:
    """Settings of the benchmark."""

    workload: str = "rotated-mnist"
    """Image workload; what is looked at is of its training part."""

    models: tuple[str, ...] = ("cnn", "resnet20")
    """Its networks."""

    steps: int = 300
    """How long each is trained before, in batches of 64."""

    pieces: int = 40
    """Pieces looked at in each form."""

    seed: int = 1
    """Of the network and the order."""

    json: Path | None = None
    """Where the figures go too."""


def trained(workload: Workload, order: Tensor, steps: int) -> tuple[CheapForward, list[float]]:
    """What computes its network's losses, and the CPU time of each step's instance, µs."""
    network = workload.boss()
    optimizer = workload.optimizer(network)
    took_us = []
    for ids in torch.split(order[: 64 * steps], 64):
        inputs, targets = workload.batch(ids.tolist())
        began_s = time.thread_time()
        optimizer.zero_grad(set_to_none=True)
        workload.losses(network(inputs), targets).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        took_us.append((time.thread_time() - began_s) * 1e6 / len(ids))
    forward = CheapForward(workload.losses)
    forward.take(network.eval())
    return forward, took_us


def kinds_of(forward: CheapForward, piece: tuple[Tensor, Tensor]) -> tuple[dict[str, Compute], dict[str, str]]:
    """How the network can be computed, and why not in the other forms; each has prepared itself on the piece."""
    kinds: dict[str, Compute] = {AS_IT_STANDS: forward.as_it_stands}
    refused = {}
    for form in FORMS:
        name = f"oneDNN, {str(form).removeprefix('torch.')}"
        try:
            forward.in_form(form, *piece)
        except Exception as error:  # a network may take no such tensors, and says so in any way
            refused[name] = (str(error).splitlines() or [type(error).__name__])[0]
        else:
            kinds[name] = partial(forward.in_form, form)
    return kinds, refused


def rows_of(settings: LookAheadCosts, model: str) -> list[dict[str, Any]]:
    """One for each form, the forms in turns, piece by piece."""
    seed_everything(settings.seed, deterministic=False)
    workload = load_workload(settings.workload, model=model)
    n, wanted = workload.fingerprint().n, 64 * settings.steps + CHUNK * settings.pieces
    require(n >= wanted, "steps", settings.steps, f"with the pieces that is {wanted} instances of {n}; give fewer")
    order = torch.randperm(n)
    forward, step_us = trained(workload, order, settings.steps)
    pieces = [workload.batch(ids.tolist()) for ids in torch.split(order[64 * settings.steps : wanted], CHUNK)]
    with torch.inference_mode():
        kinds, refused = kinds_of(forward, pieces[0])
        took_us: dict[str, list[float]] = {name: [] for name in kinds}
        losses: dict[str, list[Tensor]] = {name: [] for name in kinds}
        for piece, (name, compute) in itertools.product(pieces, kinds.items()):
            began_s = time.thread_time()
            losses[name].append(compute(*piece))
            took_us[name].append((time.thread_time() - began_s) * 1e6 / CHUNK)
    own = torch.cat(losses[AS_IT_STANDS])
    shared = {"model": model, "step_us": statistics.median(step_us)}
    return [
        *(
            {
                **shared,
                "form": name,
                "us": took_us[name],
                "astray": float((torch.cat(found) - own).abs().mean() / own.mean()),
            }
            for name, found in losses.items()
        ),
        *({**shared, "form": name, "refused": why} for name, why in refused.items()),
    ]


def main(settings: LookAheadCosts) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    where = machine()
    print(f"{where}, PyTorch {torch.__version__}")
    print(f"{settings.workload}, seed {settings.seed}, {settings.steps} steps before, pieces of {CHUNK}\n")
    rows = [row for model in settings.models for row in rows_of(settings, model)]
    table = []
    for row in rows:
        if "refused" in row:
            table.append([row["model"], row["form"], row["refused"], "-", "-"])
            continue
        share = statistics.median(row["us"]) / row["step_us"]
        table.append(
            [row["model"], row["form"], spread(row["us"], ".1f"), f"{share:.2f}", f"{100 * row['astray']:.2f}"]
        )
    print_table(["network", "form", "CPU time an instance, µs", "of a step's", "losses astray, % of their mean"], table)
    if settings.json is not None:
        settings.json.write_text(json.dumps({"machine": where, "rows": rows}))


if __name__ == "__main__":
    main(tyro.cli(LookAheadCosts))
