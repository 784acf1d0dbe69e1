"""Sentence pairs out of gettext catalogues: what OPUS did for its GNOME and KDE4 corpora."""

from __future__ import annotations

import html
import logging
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from workloads.sources import SourceFailed

log = logging.getLogger("autoassist.workloads")

LEAST_TOKENS, MOST_TOKENS = 3, 60
"""Words of a sentence, on both sides."""
MOST_RATIO = 2.5
"""Words of the longer side to those of the shorter."""
SUFFIXES = (".mo", ".po")

Pair = tuple[str, str]
"""A sentence, and its translation."""

_TAG = re.compile(r"<[^<>]{1,200}>")
_SPACE = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-ZÄÖÜ\"'„(])|\n+")
_ACCELERATORS = tuple(re.compile(rf"{mark}(?=\w)") for mark in ("_", "&", "~"))


def read_catalogue(path: Path) -> list[Pair]:
    """Messages and their translations as they stand in a ``.mo`` or ``.po`` file, plural forms too.

    Contexts, headers, and what is fuzzy, obsolete or untranslated are left out. Raises SourceFailed where the file is
    no catalogue or polib is not installed.
    """
    try:
        import polib
    except ImportError as error:
        raise SourceFailed("polib is not installed (pip install 'autoassist[workloads]')") from error
    try:
        entries = polib.mofile(str(path)) if path.suffix == ".mo" else polib.pofile(str(path))
    except (OSError, ValueError, IndexError, struct.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceFailed(f"{path.name} is no gettext catalogue ({reason})") from error
    found: list[Pair] = []
    for entry in entries:
        if not entry.msgid or entry.obsolete or "fuzzy" in entry.flags:
            continue
        forms = entry.msgstr_plural
        found += [(entry.msgid, forms.get(0, "")), (entry.msgid_plural, forms.get(1, ""))] if forms else []
        found += [(entry.msgid, entry.msgstr)] if entry.msgstr else []
    return found


def read_all(paths: Iterable[Path]) -> Iterator[Pair]:
    """The messages of many catalogues; one that cannot be read is said and left out."""
    for path in paths:
        try:
            yield from read_catalogue(path)
        except SourceFailed as failure:
            log.warning("%s is left out: %s", path, failure)


def sentence_pairs(messages: Iterable[Pair]) -> list[Pair]:
    """Clean pairs of single sentences, each once, in the order in which they first occur."""
    found: dict[Pair, None] = {}
    for message in messages:
        for pair in _split(*message):
            if is_kept(*pair):
                found.setdefault(pair)
    return list(found)


def cleaned(text: str) -> str:
    """Without tags, keyboard accelerators, and superfluous space."""
    text = html.unescape(_TAG.sub(" ", text))
    for mark in _ACCELERATORS:
        if len(mark.findall(text)) == 1:  # several are part of names, as in MAX_FILE_SIZE
            text = mark.sub("", text)
    return _SPACE.sub(" ", text).strip()


def is_kept(english: str, german: str) -> bool:
    """Whether a clean pair is of a fit length on both sides, and really translated."""
    lengths = len(english.split()), len(german.split())
    fits = min(lengths) >= LEAST_TOKENS and max(lengths) <= MOST_TOKENS and max(lengths) <= MOST_RATIO * min(lengths)
    return fits and english != german


def _split(english: str, german: str) -> Iterator[Pair]:
    """Sentence by sentence where both sides have as many, else whole."""
    parts = [[cleaned(part) for part in _SENTENCE_END.split(side) if part.strip()] for side in (english, german)]
    if len(parts[0]) == len(parts[1]):
        yield from zip(*parts, strict=True)
    else:
        yield cleaned(english), cleaned(german)
