"""What others have named (metrics, roles, policies, paths), as it may stand in a terminal."""

from __future__ import annotations

import re

from rich.text import Text

SPACES = re.compile(r"[\t\n\r\u2028\u2029]+")
NOT_TO_SHOW = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, of which rich lets ESC and CSI through; those that turn the direction of what follows; and halves
of characters, as which Python reads a path that is not UTF-8, and which no terminal can be sent."""


def plain(text: str) -> str:
    """One line of what can be seen."""
    return NOT_TO_SHOW.sub("�", SPACES.sub(" ", text))


def shown(text: str, style: str = "") -> Text:
    """For rich, which reads ``[…]`` and ``:…:`` in a str as markup of ours, and refuses what closes nothing."""
    return Text(plain(text), style)
