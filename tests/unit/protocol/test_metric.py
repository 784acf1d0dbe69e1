"""A metric of any size can be read."""

from __future__ import annotations

import math

import pytest

from protocol.metric import metric_form, metric_text

READS = {
    0.90957: "0.9096",
    0.0: "0.0000",
    -12.5: "-12.5000",
    0.001: "0.0010",
    2.2e-22: "2.2e-22",
    0.00012345: "0.0001234",
    9.60853e99: "9.609e+99",
    123456.789: "123456.7890",
    math.inf: "inf",
    math.nan: "nan",
}


@pytest.mark.parametrize("value, text", READS.items(), ids=READS.values())
def test_a_metric_reads_as_four_places_or_as_four_digits_where_those_say_nothing(value: float, text: str) -> None:
    assert metric_text(value) == text


def test_what_is_told_beside_a_metric_is_as_exact_as_it() -> None:
    assert f"{0.00003:{metric_form(0.91)}}" == "0.0000"
    assert f"{3e-24:{metric_form(2.2e-22)}}" == "3e-24"
