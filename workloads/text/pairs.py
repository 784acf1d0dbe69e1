"""A parallel corpus in memory: read from a TSV file or from catalogues, split by a hash of its source side."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import DataError
from workloads.text.catalogues import SUFFIXES, Pair, log, read_all, sentence_pairs

TEST_SHARE, VALIDATION_SHARE = 0.04, 0.03
"""Of the distinct source sentences, at least one each."""
LEAST_PAIRS = 50
"""With fewer there is next to nothing to evaluate on."""

_LETTERS = re.compile(r"[^\W\d_]+")
_LANGUAGE_HEADER = re.compile(rb'(?:^"?|\0)Language: ?([A-Za-z]{2,3})(?![A-Za-z])', re.MULTILINE)
_LANGUAGE_PATH = re.compile(r"/([a-z]{2,3})(?:[_@-]\w+)?/LC_MESSAGES/|[/._-]([a-z]{2})(?:_[A-Z]{2})?\.[mp]o$")
_GERMAN = re.compile(r"(^|[/._-])de([_-]DE)?([/.]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Corpus:
    """Sentence pairs, split into training, validation and test."""

    name: str
    """Name of the set that was really served; it goes into the fingerprint."""
    train: Sequence[Pair]
    validation: Sequence[Pair]
    test: Sequence[Pair]
    source: str
    """Who served it."""
    instead_of: str = ""
    """Name of the set that it stands in for; "" where it is what was asked for."""

    @property
    def train_size(self) -> int:
        """Number of training instances."""
        return len(self.train)

    def digest(self) -> str:
        """Of the training pairs and their order, 16 hexadecimal digits."""
        return hashlib.sha256(to_tsv(self.train)).hexdigest()[:16]

    def held_out_digest(self) -> str:
        """Of the pairs of validation and test part and their order, 16 hexadecimal digits."""
        parts = (hashlib.sha256(to_tsv(part)).digest() for part in (self.validation, self.test))
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def split_by_hash(name: str, pairs: Sequence[Pair], source: str) -> Corpus:
    """By the letters of the source side, so that what differs in case, digits and signs alone stays in one part.

    Where few pairs would leave the test or the validation part empty, it has the source of the least hash that is left.
    Raises DataError for fewer than three distinct sources.
    """
    places = [_place(source_side) for source_side, _ in pairs]
    distinct = sorted(set(places))
    if len(distinct) < 3:
        raise DataError(
            f"{source}: {len(distinct)} source sentences that differ in more than case, digits and signs; "
            "training, validation and test need one each: give more pairs"
        )
    tests = min(max(1, bisect_left(distinct, TEST_SHARE)), len(distinct) - 2)
    held_out = min(max(tests + 1, bisect_left(distinct, TEST_SHARE + VALIDATION_SHARE)), len(distinct) - 1)
    test, validation = set(distinct[:tests]), set(distinct[tests:held_out])
    parts: tuple[list[Pair], list[Pair], list[Pair]] = ([], [], [])
    for pair, place in zip(pairs, places, strict=True):
        parts[0 if place in test else 1 if place in validation else 2].append(pair)
    return Corpus(name, parts[2], parts[1], parts[0], source)


def _place(source_side: str) -> float:
    """Where a sentence falls by the hash of its letters, 0 … 1."""
    key = " ".join(_LETTERS.findall(source_side.lower())) or source_side
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def to_tsv(pairs: Iterable[Pair]) -> bytes:
    """A line for each, the two sides with a tab between."""
    return "".join(f"{source}\t{target}\n" for source, target in pairs).encode()


def parse_tsv(content: bytes, where: str) -> list[Pair]:
    """The first two columns of each line, each pair once; blank lines, and those that begin with ``# ``, are left out.

    Of the latter the log says how many would be pairs. Raises DataError with the line.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    found: dict[Pair, None] = {}
    notes_like_pairs = 0
    for number, line in enumerate(lines, 1):
        columns = [" ".join(column.split()) for column in line.split("\t")]
        if columns == [""] or line.startswith("# ") or columns == ["#"]:
            notes_like_pairs += len(columns) > 1 and all(columns[:2])
            continue
        if len(columns) < 2 or not columns[0] or not columns[1]:
            raise DataError(f"{where}, line {number}: {line[:60]!r} has no two columns; give source TAB target")
        found.setdefault((columns[0], columns[1]))
    if notes_like_pairs:
        log.info(
            "%s: %d lines of two columns begin with '# ' and are left out as notes; a space before it keeps one",
            where,
            notes_like_pairs,
        )
    return list(found)


def read_given(path: Path) -> Corpus:
    """The user's own pairs: a TSV file, a catalogue, or a directory of catalogues. Raises DataError."""
    where = f"--data {path}"
    if path.is_dir() or path.suffix in SUFFIXES:
        pairs = sentence_pairs(read_all([path] if path.is_file() else catalogues_in(path)))
    else:
        try:
            pairs = parse_tsv(path.read_bytes(), where)
        except OSError as error:
            raise DataError(f"{where}: {error.strerror or error}; correct the path") from error
    if len(pairs) < LEAST_PAIRS:
        raise DataError(f"{where}: {len(pairs)} sentence pairs; give at least {LEAST_PAIRS}")
    corpus = split_by_hash(path.stem, pairs, where)
    log.info("%s: %d pairs, %d of them for training", where, len(pairs), len(corpus.train))
    return corpus


def catalogues_in(folder: Path) -> list[Path]:
    """Catalogues below a directory, in a fixed order: the German ones, or all where none says its language."""
    found = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    german = [path for path in found if is_german(path.relative_to(folder).as_posix())]
    if not found:
        raise DataError(f"--data {folder}: no .mo or .po file below it; correct the path, or give a TSV file")
    languages = set() if german else {language_of(path) for path in found} - {""}
    if len(languages) > 1:
        log.warning(
            "--data %s: catalogues of %s, trained on as if they were of one language; give the folder of one",
            folder,
            ", ".join(sorted(languages)),
        )
    return german or found


def is_german(path: str) -> bool:
    """Whether a catalogue's path says ``de`` or ``de_DE``, as a folder or in its name."""
    return _GERMAN.search(path) is not None


def language_of(path: Path) -> str:
    """The language that a catalogue's header names, else its path, without a country; "" where neither does."""
    try:
        in_header = _LANGUAGE_HEADER.search(path.read_bytes())
    except OSError:  # said where it is read
        in_header = None
    if in_header is not None:
        return in_header[1].decode().lower()
    in_path = _LANGUAGE_PATH.search(path.absolute().as_posix())
    return (in_path[1] or in_path[2]).lower() if in_path is not None else ""
