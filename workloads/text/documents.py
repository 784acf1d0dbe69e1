"""The user's own text files, cut into sections that are split by a hash of what they say."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import DataError
from workloads.text.catalogues import log

SUFFIXES = (".txt", ".text", ".md", ".rst")
TEST_SHARE, VALIDATION_SHARE = 0.04, 0.03
"""Of the distinct sections, at least one each."""
SECTION_CHARACTERS = 2000
"""A section ends with the first paragraph that makes it so long."""

_PARAGRAPH = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Documents:
    """Sections of text, split into training, validation and test."""

    name: str
    train: Sequence[str]
    validation: Sequence[str]
    test: Sequence[str]

    def digest(self, part: str = "train") -> str:
        """Of a part's sections and their order, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for section in getattr(self, part):
            digest.update(hashlib.sha256(section.encode()).digest())
        return digest.hexdigest()[:16]


def read_documents(path: Path) -> Documents:
    """A text file, or all below a directory, by their names in order; raises DataError.

    The same section never lies in two parts, however often it occurs.
    """
    where = f"--data {path}"
    files = text_files(path)
    if not files:
        raise DataError(f"{where}: no {', '.join(SUFFIXES)} file below it; correct the path, or give one file")
    texts = [_read(file, where) for file in files]
    found = [section for text in texts for section in sections(text)]
    if len(set(found)) < 3:  # what blank lines cut well enough stays as it is, and so does its fingerprint
        found = [section for text in texts for section in sections(text, at_line_ends=True)]
    distinct = sorted(set(found), key=lambda section: hashlib.sha256(section.encode()).digest())
    if len(distinct) < 3:
        raise DataError(
            f"{where}: {len(distinct)} different sections, cut after {SECTION_CHARACTERS} characters at blank lines "
            "and line ends; training, validation and test need one each: give more text, or break longer lines"
        )
    tests, held_out = (max(1, round(share * len(distinct))) for share in (TEST_SHARE, VALIDATION_SHARE))
    test, validation = set(distinct[:tests]), set(distinct[tests : tests + held_out])
    train = [section for section in found if section not in test and section not in validation]
    log.info("%s: %d files, %d sections, %d of them for training", where, len(files), len(found), len(train))
    return Documents(path.stem, train, distinct[tests : tests + held_out], distinct[:tests])


def text_files(path: Path) -> list[Path]:
    """The file itself, or those below a directory that have a suffix of text, in a fixed order."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def sections(text: str, *, at_line_ends: bool = False) -> Iterator[str]:
    """Paragraph by paragraph, until a section is long enough.

    A paragraph that is longer by itself stays whole; ``at_line_ends`` cuts one of twice the length or more there.
    """
    held, length = [], 0
    paragraphs: Iterable[str] = _PARAGRAPH.split(text)
    if at_line_ends:
        paragraphs = (piece for paragraph in paragraphs for piece in _pieces(paragraph))
    for paragraph in paragraphs:
        if paragraph.strip():
            held.append(paragraph.strip("\n"))
            length += len(paragraph)
        if length >= SECTION_CHARACTERS:
            yield "\n\n".join(held)
            held, length = [], 0
    if held:
        yield "\n\n".join(held)


def _pieces(paragraph: str) -> Iterator[str]:
    """The paragraph, or where it is far too long its lines, as many at a time as make a section."""
    if len(paragraph) < 2 * SECTION_CHARACTERS:
        yield paragraph
        return
    held, length = [], 0
    for line in paragraph.split("\n"):
        held.append(line)
        length += len(line) + 1
        if length > SECTION_CHARACTERS:
            yield "\n".join(held)
            held, length = [], 0
    if held:
        yield "\n".join(held)


def _read(file: Path, where: str) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{where}: {file}: {error.strerror or error}; correct the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: {file}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
