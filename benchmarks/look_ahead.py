"""What it costs to look at an instance ahead of the Boss, in each form of the forward pass, beside a training step.

    python -m benchmarks.look_ahead [--workload rotated-mnist] [--json FILE]

One process, one thread, its CPU time: a network is trained for some hundred steps, as a Boss is, then the losses of
instances that it has not trained are computed as an Assistant looks ahead, in turns.
"""

from __future__ import annotations

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
from workloads import Workload, load_workload

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
    """Its losses, and the CPU time of each step's instance, µs."""
    network = workload.boss()
    optimizer = workload.optimizer(network)
    took_us = []
    for step in range(steps):
        began_s = time.thread_time()
        inputs, targets = workload.batch(order[64 * step : 64 * (step + 1)].tolist())
        optimizer.zero_grad(set_to_none=True)
        workload.losses(network(inputs), targets).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        took_us.append((time.thread_time() - began_s) * 1e6 / 64)
    forward = CheapForward(workload.losses)
    forward.take(network.eval())
    return forward, took_us


def measured(compute: Callable[..., Tensor], pieces: list[Any]) -> tuple[list[float], Tensor]:
    """CPU time of each piece's instance, µs, after one that prepares; and all losses."""
    took_us, found = [], []
    with torch.inference_mode():
        compute(*pieces[0])
        for inputs, targets in pieces:
            began_s = time.thread_time()
            found.append(compute(inputs, targets))
            took_us.append((time.thread_time() - began_s) * 1e6 / len(targets))
    return took_us, torch.cat(found)


def rows_of(settings: LookAheadCosts, model: str) -> list[dict[str, Any]]:
    """One for each form that the network takes."""
    seed_everything(settings.seed, deterministic=False)
    workload = load_workload(settings.workload, model=model)
    order = torch.randperm(workload.fingerprint().n)
    forward, step_us = trained(workload, order, settings.steps)
    fresh = order[64 * settings.steps :].split(CHUNK)[: settings.pieces]
    pieces = [workload.batch(ids.tolist()) for ids in fresh]
    own_us, own = measured(forward.as_it_stands, pieces)
    rows = [{"model": model, "form": AS_IT_STANDS, "us": own_us, "astray": 0.0}]
    for form in FORMS:
        try:
            took_us, found = measured(partial(forward.in_form, form), pieces)
        except Exception as error:  # a network may take no such tensors, and says so in any way
            rows.append({"model": model, "form": str(form), "error": str(error).splitlines()[0]})
            continue
        astray = float((found - own).abs().mean() / own.mean())
        rows.append({"model": model, "form": str(form), "us": took_us, "astray": astray})
    return [{**row, "step_us": statistics.median(step_us)} for row in rows]


def main(settings: LookAheadCosts) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    where = machine()
    print(f"{where}, PyTorch {torch.__version__}")
    print(f"{settings.workload}, seed {settings.seed}, {settings.steps} steps before, pieces of {CHUNK}\n")
    rows = [row for model in settings.models for row in rows_of(settings, model)]
    table = []
    for row in rows:
        if "error" in row:
            table.append([row["model"], row["form"], "-", "-", "-"])
            continue
        share = statistics.median(row["us"]) / row["step_us"]
        table.append(
            [row["model"], row["form"], spread(row["us"], ".1f"), f"{share:.2f}", f"{100 * row['astray']:.2f}"]
        )
    print_table(["network", "form", "CPU time an instance, µs", "of a step's", "losses astray, %"], table)
    if settings.json is not None:
        settings.json.write_text(json.dumps({"machine": where, "rows": rows}))


if __name__ == "__main__":
    main(tyro.cli(LookAheadCosts))
