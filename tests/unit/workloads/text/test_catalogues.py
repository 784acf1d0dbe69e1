"""Sentence pairs come clean out of gettext catalogues, and the same sentence never lies in two parts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import polib
import pytest

from protocol.errors import DataError
from workloads.sources import SourceFailed
from workloads.text.catalogues import cleaned, is_kept, read_all, read_catalogue, sentence_pairs
from workloads.text.pairs import (
    Corpus,
    catalogues_in,
    is_german,
    language_of,
    parse_tsv,
    read_given,
    split_by_hash,
    to_tsv,
)


def catalogue(path: Path, *entries: polib.POEntry) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = polib.POFile()
    file.metadata = {"Content-Type": "text/plain; charset=UTF-8"}
    file.extend(entries)
    (file.save_as_mofile if path.suffix == ".mo" else file.save)(str(path))
    return path


def message(source: str, target: str, **more: object) -> polib.POEntry:
    return polib.POEntry(msgid=source, msgstr=target, **more)


@pytest.mark.parametrize("suffix", [".mo", ".po"])
def test_messages_come_without_context_header_and_what_is_not_translated(tmp_path: Path, suffix: str) -> None:
    path = catalogue(
        tmp_path / f"a{suffix}",
        message("Open the file", "Datei öffnen", msgctxt="menu"),
        message("Not translated yet", ""),
        polib.POEntry(msgid="%d file", msgid_plural="%d files", msgstr_plural={0: "%d Datei", 1: "%d Dateien"}),
    )
    assert sorted(read_catalogue(path)) == [
        ("%d file", "%d Datei"),
        ("%d files", "%d Dateien"),
        ("Open the file", "Datei öffnen"),
    ]


def test_fuzzy_and_obsolete_messages_are_left_out(tmp_path: Path) -> None:
    path = catalogue(
        tmp_path / "a.po",
        message("Guessed by a machine", "Von einer Maschine geraten", flags=["fuzzy"]),
        message("No longer used", "Nicht mehr benutzt", obsolete=True),
        message("Still in use", "Noch in Gebrauch"),
    )
    assert read_catalogue(path) == [("Still in use", "Noch in Gebrauch")]


UNFINISHED = """msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"

msgid "%d file"
msgid_plural "%d files"
msgstr[1] "%d Dateien"
"""


def test_a_plural_without_its_first_form_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.po").write_text(UNFINISHED)
    assert read_catalogue(tmp_path / "a.po") == [("%d file", ""), ("%d files", "%d Dateien")]
    good = catalogue(tmp_path / "b.po", message("Open the file", "Öffne die Datei"))
    assert sentence_pairs(read_all([tmp_path / "a.po", good])) == [("Open the file", "Öffne die Datei")]


def test_a_file_that_is_no_catalogue_is_said_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bad.mo").write_bytes(b"not a catalogue at all")
    good = catalogue(tmp_path / "good.mo", message("Still in use", "Noch in Gebrauch"))
    with caplog.at_level(logging.WARNING, "autoassist.workloads"):
        assert list(read_all([tmp_path / "bad.mo", good])) == [("Still in use", "Noch in Gebrauch")]
    assert "bad.mo is left out: bad.mo is no gettext catalogue" in caplog.text
    with pytest.raises(SourceFailed, match=r"bad\.mo is no gettext catalogue"):
        read_catalogue(tmp_path / "bad.mo")


@pytest.mark.parametrize("kept", [0, 2, 10, 30])
def test_an_empty_or_truncated_catalogue_is_said_and_left_out(
    kept: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = catalogue(tmp_path / "good.mo", message("Still in use", "Noch in Gebrauch"))
    (tmp_path / "bad.mo").write_bytes(good.read_bytes()[:kept])
    with caplog.at_level(logging.WARNING, "autoassist.workloads"):
        assert list(read_all([tmp_path / "bad.mo", good])) == [("Still in use", "Noch in Gebrauch")]
    assert "bad.mo is left out: bad.mo is no gettext catalogue" in caplog.text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Save _as…", "Save as…"),
        ("&Datei öffnen", "Datei öffnen"),
        ("~Format", "Format"),
        ("<b>Bold</b>  and\n<a href='x'>link</a>", "Bold and link"),
        ("MAX_FILE_SIZE is too small", "MAX_FILE_SIZE is too small"),
        ("Save &amp; close &quot;it&quot;", 'Save & close "it"'),
    ],
)
def test_tags_accelerators_and_entities_are_taken_off(text: str, clean: str) -> None:
    assert cleaned(text) == clean


def test_a_message_is_split_where_both_sides_have_as_many_sentences() -> None:
    both = ("It has failed. Try it once again.", "Es schlug fehl. Versuchen Sie es noch einmal.")
    assert sentence_pairs([both]) == [
        ("It has failed.", "Es schlug fehl."),
        ("Try it once again.", "Versuchen Sie es noch einmal."),
    ]
    one = ("It has failed. Try it once again.", "Es schlug fehl, versuchen Sie es noch einmal.")
    assert sentence_pairs([one]) == [one]


def test_each_pair_is_there_once() -> None:
    pair = ("Open the file", "Öffne die Datei")
    assert sentence_pairs([pair, pair, ("Open the _file", "Öffne die Datei")]) == [pair]


@pytest.mark.parametrize(
    ("source", "target", "kept"),
    [
        ("Open the file", "Öffne die Datei", True),
        ("Open it", "Öffne es bitte", False),
        ("Open the file", "Open the file", False),
        ("Open the file", "Öffne " * 8, False),
        ("a " * 61, "ein " * 61, False),
    ],
)
def test_length_ratio_and_sameness_decide_what_is_kept(source: str, target: str, kept: bool) -> None:
    assert is_kept(source, target) is kept


def test_the_split_follows_from_the_letters_of_the_source_alone() -> None:
    sources = [f"word{'abcdefghij'[i % 10]} is number {'xyzuvw'[i % 6]} of {i}" for i in range(600)]
    corpus = split_by_hash("made-up", [(s, f"{s} auf Deutsch") for s in sources], "test")
    parts = {}
    for name in ("train", "validation", "test"):
        for source, _ in getattr(corpus, name):
            parts.setdefault("".join(c for c in source if c.isalpha()), set()).add(name)
    assert len(corpus.train) + len(corpus.validation) + len(corpus.test) == 600
    assert all(len(found) == 1 for found in parts.values())


def test_the_split_is_of_the_shares_that_are_promised_and_never_changes() -> None:
    words = [f"{a}{b}{c} stays" for a in "abcdefghijklmnopq" for b in "abcdefghijklm" for c in "abcdefghijklmno"]
    corpus = split_by_hash("made-up", [(w, w.upper()) for w in words], "test")
    shares = [len(part) / len(words) for part in (corpus.test, corpus.validation)]
    assert shares == pytest.approx([0.04, 0.03], abs=0.01)
    assert corpus.digest() == "f8bfafa99f85106c"


def sources_at(least: float, most: float) -> Iterator[str]:
    """Sentences whose hash falls there, of 0 … 1; the same in the same order every time."""
    for letters in product("abcdefghijklmnop", repeat=4):
        source = f"{''.join(letters)} stays here"
        if least <= int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") / 2**64 < most:
            yield source


def numbers_of(corpus: Corpus) -> tuple[int, int, int]:
    return len(corpus.train), len(corpus.validation), len(corpus.test)


def test_of_pairs_that_all_hash_above_the_shares_the_two_least_are_held_out() -> None:
    sources = list(islice(sources_at(0.07, 1.0), 60))
    pairs = [(source, source.upper()) for source in sources]
    corpus = split_by_hash("made-up", pairs, "test")
    assert numbers_of(corpus) == (58, 1, 1)
    by_hash = sorted(pairs, key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
    assert [*corpus.test, *corpus.validation] == by_hash[:2]
    assert corpus.train == [pair for pair in pairs if pair not in by_hash[:2]]
    again = split_by_hash("made-up", pairs[::-1], "test")
    assert (again.test, again.validation) == (corpus.test, corpus.validation)


@pytest.mark.parametrize(
    ("below", "between", "split"),
    [(0, 3, (50, 2, 1)), (0, 1, (49, 1, 1)), (3, 0, (49, 1, 3)), (1, 1, (50, 1, 1)), (4, 3, (50, 3, 4))],
)
def test_a_part_takes_of_the_next_only_where_it_is_empty(below: int, between: int, split: tuple[int, int, int]) -> None:
    sources = [*islice(sources_at(0.07, 1.0), 50), *islice(sources_at(0.0, 0.04), below)]
    sources += islice(sources_at(0.04, 0.07), between)
    assert numbers_of(split_by_hash("made-up", [(s, s.upper()) for s in sources], "test")) == split


@pytest.mark.parametrize(("below", "between"), [(2, 0), (3, 0), (1, 1), (1, 2), (0, 2), (0, 3)])
def test_something_is_left_to_train_on_however_the_hashes_fall(below: int, between: int) -> None:
    sources = [*islice(sources_at(0.0, 0.04), below), *islice(sources_at(0.04, 0.07), between)]
    sources += islice(sources_at(0.07, 1.0), 3 - min(3, below + between))
    assert numbers_of(split_by_hash("made-up", [(s, s.upper()) for s in sources], "test")) == (1, 1, 1)


def test_a_part_that_would_be_empty_takes_all_pairs_that_differ_in_signs_alone() -> None:
    sources = [f"{source}{sign}" for source in islice(sources_at(0.07, 1.0), 30) for sign in ("", "!", " 7")]
    corpus = split_by_hash("made-up", [(s, s.upper()) for s in sources], "test")
    assert numbers_of(corpus) == (84, 3, 3)
    assert all(source.startswith(corpus.test[0][0]) for source, _ in corpus.test)


def test_pairs_of_fewer_than_three_sources_are_refused(tmp_path: Path) -> None:
    lines = [f"{number} {noun}\t{number} auf Deutsch\n" for number in range(30) for noun in ("files", "FOLDERS")]
    (tmp_path / "few.tsv").write_text("".join(lines))
    with pytest.raises(DataError, match=r"few\.tsv: 2 source sentences that differ in more .*: give more pairs"):
        read_given(tmp_path / "few.tsv")


def test_a_tsv_file_gives_its_first_two_columns() -> None:
    content = "﻿one two\teins zwei\tCC-BY\r\n\r\n# a note\n#\none  two\teins zwei\nthree\tdrei\n".encode()
    assert parse_tsv(content, "x.tsv") == [("one two", "eins zwei"), ("three", "drei")]
    assert parse_tsv(to_tsv([("a", "b")]), "x.tsv") == [("a", "b")]


def test_lines_that_could_be_pairs_but_are_notes_are_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    content = b"# a note\n# one two\teins zwei\n# three\tdrei\n #four\tvier\n # five\tfunf\n"
    with caplog.at_level(logging.INFO, "autoassist.workloads"):
        assert parse_tsv(content, "x.tsv") == [("#four", "vier"), ("# five", "funf")]
    (said,) = caplog.messages
    assert "x.tsv: 2 lines of two columns begin with '# ' and are left out as notes" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"one\teins\ntwo zwei\n", r"x\.tsv, line 2: 'two zwei' has no two columns; give source TAB target"),
        (b"one\t\n", r"line 1: 'one\\t' has no two columns"),
        (b"one\t\xff\n", r"x\.tsv: byte 4 is not UTF-8"),
    ],
)
def test_a_tsv_file_that_is_none_is_refused_with_the_place(content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_tsv(content, "x.tsv")


@pytest.mark.parametrize(
    ("path", "german"),
    [
        ("usr/share/locale/de/LC_MESSAGES/tar.mo", True),
        ("languages/admin-de_DE.mo", True),
        ("po/de.po", True),
        ("usr/share/locale/de_AT/LC_MESSAGES/tar.mo", False),
        ("usr/share/locale/nl/LC_MESSAGES/mode.mo", False),
        ("po/model.po", False),
    ],
)
def test_a_catalogues_path_says_whether_it_is_german(path: str, german: bool) -> None:
    assert is_german(path) is german


def test_of_a_directory_the_german_catalogues_are_taken_or_all_where_none_says(tmp_path: Path) -> None:
    french, german = (catalogue(tmp_path / code / "x.mo", message("a b c", "d e f")) for code in ("fr", "de"))
    assert catalogues_in(tmp_path) == [german]
    assert catalogues_in(french.parent) == [french]


@pytest.mark.parametrize("suffix", [".mo", ".po"])
def test_a_catalogues_language_is_that_of_its_header_or_else_of_its_path(tmp_path: Path, suffix: str) -> None:
    path = catalogue(tmp_path / "fr" / "LC_MESSAGES" / f"x{suffix}", message("a b c", "d e f"))
    assert language_of(path) == "fr"
    assert language_of(catalogue(tmp_path / "po" / f"pt_BR{suffix}", message("a b c", "d e f"))) == "pt"
    assert language_of(catalogue(tmp_path / "po" / f"app{suffix}", message("a b c", "d e f"))) == ""
    file = polib.POFile()
    file.metadata = {"Language": "nl_BE", "Content-Type": "text/plain; charset=UTF-8"}
    (file.save_as_mofile if suffix == ".mo" else file.save)(str(path))
    assert language_of(path) == "nl"


def test_catalogues_of_several_languages_are_taken_with_a_warning_that_names_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for code in ("fr", "nl", "nl_BE"):
        catalogue(tmp_path / code / "LC_MESSAGES" / "x.mo", message("a b c", "d e f"))
    assert len(catalogues_in(tmp_path)) == 3
    (said,) = caplog.messages
    assert "catalogues of fr, nl, trained on as if they were of one language; give the folder of one" in said
    caplog.clear()
    catalogues_in(tmp_path / "fr")
    catalogue(tmp_path / "de" / "LC_MESSAGES" / "x.mo", message("a b c", "d e f"))
    catalogues_in(tmp_path)
    assert not caplog.messages


def test_what_the_user_gives_is_refused_where_it_is_not_there_or_too_little(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data .*nowhere\.tsv: No such file or directory; correct the path"):
        read_given(tmp_path / "nowhere.tsv")
    with pytest.raises(DataError, match=r"no \.mo or \.po file below it"):
        read_given(tmp_path)
    (tmp_path / "few.tsv").write_text("one\teins\n")
    with pytest.raises(DataError, match=r"few\.tsv: 1 sentence pairs; give at least 50"):
        read_given(tmp_path / "few.tsv")
