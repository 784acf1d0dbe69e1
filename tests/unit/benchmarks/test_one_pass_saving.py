"""What the one-pass benchmark calls saved."""

from __future__ import annotations

from benchmarks.one_pass import saved

UNIFORM = [(0.90, 100.0), (0.80, 60.0), (0.86, 80.0)]


def test_the_saving_is_against_what_uniform_needs_for_as_much() -> None:
    assert saved(UNIFORM, 0.88, 45.0) == "50"  # uniform: 90


def test_more_passes_than_uniform_are_a_negative_saving() -> None:
    assert saved(UNIFORM, 0.80, 66.0) == "-10"


def test_beyond_uniforms_curve_nothing_is_said() -> None:
    assert saved(UNIFORM, 0.79, 10.0) == saved(UNIFORM, 0.91, 10.0) == "-"
