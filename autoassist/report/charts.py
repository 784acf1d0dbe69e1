"""Charts as inline SVG, without a library: a page with them needs nothing that must be installed or fetched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from autoassist.report.markup import tag

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 26, 44
COLOURS = tuple(f"c{i}" for i in range(8))
"""Classes of the style sheet, told apart by the colour-blind too."""
TICKS = 5
MOST_MARKS = 40
"""Points up to which each is marked, and tells its value where the pointer rests."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart; a point without a finite value is left out, and the line breaks there."""

    name: str
    points: Sequence[tuple[float, float]]
    is_limit: bool = False
    """Drawn as a thin broken line, without marks."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps values to places on an axis."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def number(value: float) -> str:
    """Short: ``0.25``, ``12k``, ``3.4M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.4g}"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between, about as many as fit."""
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1.0, 2.0, 5.0, 10.0) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(title: str, x: str, y: str, curves: Sequence[Curve], *, y_from: float | None = None) -> Element | None:
    """A chart of curves; None where there is nothing to draw. ``y_from`` is where the axis begins at the latest."""
    curves = [curve for curve in curves if any(map(_is_finite, curve.points))]
    drawn = [point for curve in curves for point in curve.points if _is_finite(point)]
    if not [curve for curve in curves if not curve.is_limit]:
        return None
    lows = [value for _, value in drawn] + ([y_from] if y_from is not None else [])
    across = _scale([value for value, _ in drawn], LEFT, WIDTH - RIGHT)
    up = _scale(lows, HEIGHT - BOTTOM, TOP, room=0.04)
    parts = _axes(x, y, across, up)
    for place, curve in enumerate(curves):
        parts += _line(curve, _colour(place, curve), across, up)
    return _chart(title, parts, _legend(curves))


def bars(title: str, x: str, y: str, found: Sequence[tuple[float, float, float]]) -> Element | None:
    """A histogram of (from, to, height); None where nothing was counted."""
    if not any(height for _, _, height in found):
        return None
    across = _scale([edge for low, high, _ in found for edge in (low, high)], LEFT, WIDTH - RIGHT)
    up = _scale([0.0, *(height for _, _, height in found)], HEIGHT - BOTTOM, TOP, room=0.04)
    parts = _axes(x, y, across, up)
    for low, high, height in found:
        said = tag("title", f"{number(low)} … {number(high)}: {number(height)}")
        width = max(0.5, across(high) - across(low) - 1.0)
        top = up(height)
        parts.append(
            tag("rect", said, class_="bar", x=f"{across(low):.1f}", y=f"{top:.1f}", width=f"{width:.1f}",
                height=f"{max(0.0, up(0.0) - top):.1f}")
        )  # fmt: skip
    return _chart(title, parts)


def _is_finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _scale(values: Sequence[float], start: float, stop: float, room: float = 0.0) -> Scale:
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(1.0, abs(high)):  # one point, or a flat line
        low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
    return Scale(low=low, high=high + room * (high - low), start=start, stop=stop)


def _chart(title: str, parts: list[Element], legend: Sequence[Element] = ()) -> Element:
    """Read out by its title; the figures themselves stand in the tables."""
    heading = tag("text", title, class_="title", x=LEFT, y=14)
    drawing = tag("svg", heading, parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    return tag("figure", drawing, legend)


def _axes(x: str, y: str, across: Scale, up: Scale) -> list[Element]:
    bottom, made = HEIGHT - BOTTOM, []
    for value in ticks(up.low, up.high):
        place = f"{up(value):.1f}"
        made.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place))
        made.append(tag("text", number(value), class_="tick end", x=LEFT - 6, y=f"{up(value) + 3.5:.1f}"))
    for value in ticks(across.low, across.high):
        made.append(tag("text", number(value), class_="tick middle", x=f"{across(value):.1f}", y=bottom + 15))
    made.append(tag("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom))
    made.append(tag("text", x, class_="label end", x=WIDTH - RIGHT, y=HEIGHT - 8))
    made.append(tag("text", y, class_="label", x=LEFT, y=HEIGHT - 8))
    return made


def _colour(place: int, curve: Curve) -> str:
    again = " again" if place >= len(COLOURS) else ""
    return "limit" if curve.is_limit else COLOURS[place % len(COLOURS)] + again


def _legend(curves: Sequence[Curve]) -> list[Element]:
    """Below the drawing, where it may take as many lines as it needs; one curve is named by the title."""
    if len(curves) < 2:
        return []
    names = []
    for place, curve in enumerate(curves):
        sample = tag("line", class_=f"curve {_colour(place, curve)}", x1=0, x2=18, y1=5, y2=5)
        names.append(
            tag("span", tag("svg", sample, class_="sample", viewBox="0 0 18 10", aria_hidden="true"), curve.name)
        )
    return [tag("figcaption", names)]


def _line(curve: Curve, colour: str, across: Scale, up: Scale) -> list[Element]:
    made: list[Element] = []
    piece: list[str] = []
    for point in [*curve.points, (math.nan, math.nan)]:
        if _is_finite(point):
            piece.append(f"{across(point[0]):.1f},{up(point[1]):.1f}")
        elif piece:
            made.append(tag("polyline", class_=f"curve {colour}", points=" ".join(piece)))
            piece = []
    if len(curve.points) <= MOST_MARKS and not curve.is_limit:
        for point in filter(_is_finite, curve.points):
            said = tag("title", f"{curve.name}: {number(point[1])} at {number(point[0])}")
            made.append(
                tag("circle", said, class_=colour, cx=f"{across(point[0]):.1f}", cy=f"{up(point[1]):.1f}", r="3")
            )
    return made
