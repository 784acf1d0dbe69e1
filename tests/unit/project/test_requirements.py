"""What the project requires, extras too, is pinned for those who install it with constraints.txt."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def pins() -> dict[str, Requirement]:
    """By name, as constraints.txt has them."""
    lines = (line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): one for one in found}


def requirements() -> Iterator[str]:
    """Each line of the project's metadata that names another distribution."""
    yield from PROJECT["dependencies"]
    for lines in EXTRAS.values():
        yield from lines


@pytest.mark.parametrize("line", sorted(set(requirements())))
def test_each_requirement_is_pinned_to_a_version_that_it_allows(line: str) -> None:
    needed = Requirement(line)
    if canonicalize_name(needed.name) == PROJECT["name"]:
        assert needed.extras <= set(EXTRAS), "an extra that takes in others names those that exist"
        return
    pin = pins().get(canonicalize_name(needed.name))
    assert pin is not None, f"{needed.name} has no line in constraints.txt"
    (exact,) = pin.specifier
    assert exact.operator == "==" and needed.specifier.contains(exact.version), f"{pin} is not {needed}"


def test_constraints_name_each_distribution_once() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    assert len(pins()) == len(lines)


def test_the_extras_that_the_documentation_speaks_of_exist() -> None:
    assert {"workloads", "parquet", "plot", "monitor", "ray", "integrations", "dev"} <= set(EXTRAS)
