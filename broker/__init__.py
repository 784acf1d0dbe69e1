"""The batch broker: owns the run. Imports neither torch nor workloads."""
