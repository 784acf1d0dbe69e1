"""Figures of repeated measurements, under their names: in a table, and in a file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.common import machine, print_table, spread

PLACES = ("json", "data_dir")
"""Settings that say where files lie on that machine, and nothing of what was measured."""


@dataclass(frozen=True)
class Figure:
    """How a figure reads in the table, and where it should be."""

    words: str
    goal: str = ""
    form: str = ".2f"


@dataclass
class Figures:
    """Values by name, one for each repetition."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def note(self, **values: float) -> None:
        """One repetition's."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(float(value))

    def print(self, title: str, known: Mapping[str, Figure]) -> None:
        """Those that are known by name, in that order."""
        there = [(figure, self.values[name]) for name, figure in known.items() if name in self.values]
        rows = [[figure.words, spread(values, figure.form), figure.goal] for figure, values in there]
        print_table([title, "median (least … greatest)", "goal"], rows)

    def write(self, path: Path, settings: Any) -> None:
        """Medians by name; all values, the machine and the settings beside them."""
        medians = {name: float(statistics.median(values)) for name, values in self.values.items()}
        given = {name: value for name, value in asdict(settings).items() if name not in PLACES}
        whole = medians | {"machine": machine(), "settings": given, "values": self.values}
        path.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n")
