"""Cheap checks of a workload before a run starts: what is wrong shows in a second, not after an epoch."""

from __future__ import annotations

from workloads.base import Workload
from workloads.checked import CheckedWorkload
from workloads.mistakes import blaming, method_of, wrong


def validate_workload(workload: Workload) -> None:
    """Check the shapes and types of what ``workload`` returns, on two instances and one Boss thrown away after.

    torch's random numbers are left as they were, so a validated run starts like one that was not. Costs one Boss's
    construction and forward pass on the CPU. Not asked: ``evaluate``, which takes its time.

    Raises:
        WorkloadError: names the class and the method, what it returned, and what is expected.
    """
    import torch

    checked = CheckedWorkload(workload)
    n = checked.fingerprint().n
    checked.features()
    checked.labels()
    checked.lengths()
    inputs, targets = checked.batch([0, n - 1])
    with torch.random.fork_rng(devices=[]):
        boss = checked.boss()
        checked.optimizer(boss)
        boss.eval()
        with blaming(checked.workload, "the Boss's forward pass"):
            outputs = boss(inputs)
        losses = checked.losses(outputs, targets)
    if not torch.isfinite(losses).all():
        what = method_of(checked.workload, "losses()")
        raise wrong(checked.workload, what, f"{losses.tolist()}", "finite losses of a fresh Boss")
    for progress in (0.0, 0.5, 1.0):
        checked.lr_factor(progress)
