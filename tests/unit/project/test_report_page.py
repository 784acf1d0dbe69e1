"""The report's page tells what every field means."""

from __future__ import annotations

import re

import msgspec
import pytest

from docs.make_report_page import page
from protocol import report

STRUCTS = [v for v in vars(report).values() if isinstance(v, type) and issubclass(v, msgspec.Struct)]


def rows(struct: str) -> dict[str, str]:
    """Meaning by field, as the page has them."""
    section = page().partition(f"\n## {struct}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| `[^|]+` \|(.*)\|$", section, re.M))


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda s: s.__name__)
def test_every_field_of_the_report_has_a_row_and_a_meaning(struct: type[msgspec.Struct]) -> None:
    found = rows(struct.__name__)
    assert list(found) == list(struct.__struct_fields__)
    assert not [field for field, meaning in found.items() if not meaning.strip()]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda s: s.__name__)
def test_what_is_called_seconds_says_so(struct: type[msgspec.Struct]) -> None:
    for field, meaning in rows(struct.__name__).items():
        assert not field.endswith("_s") or "seconds" in meaning, field
