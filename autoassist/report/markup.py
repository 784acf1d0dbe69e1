"""HTML and SVG as trees: what is escaped and closed by construction, whatever a run's names and logs hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Child = Element | str | Iterable["Element | str"]

NOT_TEXT = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no document may hold."""


def tag(name: str, /, *children: Child, **attributes: object) -> Element:
    """An element; ``class_`` gives ``class``, ``stroke_width`` gives ``stroke-width``, and None leaves one out."""
    made = Element(name)
    for key, value in attributes.items():
        if value is not None:
            made.set(key.rstrip("_").replace("_", "-"), _text(str(value)))
    for child in children:
        for one in [child] if isinstance(child, str | Element) else child:
            _add(made, one)
    return made


def _add(parent: Element, child: Element | str) -> None:
    if isinstance(child, Element):
        parent.append(child)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + _text(child)
    else:
        parent.text = (parent.text or "") + _text(child)


def _text(text: str) -> str:
    return NOT_TEXT.sub("�", text)


def table(headings: Sequence[str], rows: Iterable[Sequence[Element | str]], *, words: int = 1) -> Element:
    """A table; its first ``words`` columns hold words, the others figures, which stand to the right."""
    head = tag("tr", [tag("th", heading, scope="col", class_=_kind(i, words)) for i, heading in enumerate(headings)])
    body = [tag("tr", [tag("td", cell, class_=_kind(i, words)) for i, cell in enumerate(row)]) for row in rows]
    return tag("div", tag("table", tag("thead", head), tag("tbody", body)), class_="scroll")


def _kind(column: int, words: int) -> str | None:
    return None if column < words else "figure"


def page(title: str, style: str, body: Iterable[Element]) -> bytes:
    """A whole document that fetches nothing: its policy forbids it, whatever is in it."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", style),
    )
    document = tag("html", head, tag("body", tag("main", body)), lang="en")
    whole: bytes = ElementTree.tostring(document, encoding="utf-8", method="html")
    return b"<!DOCTYPE html>\n" + whole + b"\n"
