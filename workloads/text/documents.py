"""The user's own text files, cut into sections that are split by a hash of what they say."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
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
    found = [section for file in files for section in sections(_read(file, where))]
    distinct = sorted(set(found), key=lambda section: hashlib.sha256(section.encode()).digest())
    if len(distinct) < 3:
        raise DataError(f"{where}: {len(distinct)} sections of {SECTION_CHARACTERS} characters; give more text")
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


def sections(text: str) -> Iterator[str]:
    """Paragraph by paragraph, until a section is long enough; what is longer by itself stays whole."""
    held, length = [], 0
    for paragraph in _PARAGRAPH.split(text):
        if paragraph.strip():
            held.append(paragraph.strip("\n"))
            length += len(paragraph)
        if length >= SECTION_CHARACTERS:
            yield "\n\n".join(held)
            held, length = [], 0
    if held:
        yield "\n\n".join(held)


def _read(file: Path, where: str) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{where}: {file}: {error.strerror or error}; correct the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: {file}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
