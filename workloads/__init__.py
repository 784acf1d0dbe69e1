"""What is trained: the Workload interface, the built-in workloads, and where their data comes from."""

from workloads.base import Fingerprint, Metric, Workload
from workloads.checked import CheckedWorkload
from workloads.registry import load_workload
from workloads.validate import validate_workload

__all__ = ["CheckedWorkload", "Fingerprint", "Metric", "Workload", "load_workload", "validate_workload"]
