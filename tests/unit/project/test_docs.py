"""The documentation is true: pages made from code are current, links lead somewhere, figures have a script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.make_report_page import TARGET, page

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_report_page_is_current() -> None:
    assert TARGET.read_text() == page(), "run python -m docs.make_report_page"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files_that_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_every_message_is_on_the_protocol_page() -> None:
    text = (ROOT / "docs" / "PROTOCOL.md").read_text()
    for name in re.findall(r"^class (\w+)\(Message, ", (ROOT / "protocol" / "messages.py").read_text(), re.M):
        assert name in text, name


def test_commands_in_the_readme_name_scripts_and_targets_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for script in re.findall(r"python -m (benchmarks\.\w+)", text):
        assert (ROOT / (script.replace(".", "/") + ".py")).exists(), script


def test_every_test_that_a_guarantee_names_exists() -> None:
    named = re.findall(r"^- `(tests/[^`]+)`", (ROOT / "docs" / "GUARANTEES.md").read_text(), re.M)
    assert len(named) > 20
    for name in named:
        path, _, test = name.partition("::")
        assert (ROOT / path).exists(), path
        assert not test or re.search(rf"^def {test}\(", (ROOT / path).read_text(), re.M), name


def test_every_guarantee_names_a_test() -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "GUARANTEES.md").read_text(), flags=re.M)[1:]
    assert len(sections) == 10
    for section in sections:
        assert "- `tests/" in section, section.splitlines()[0]


def test_no_message_carries_a_time_of_day() -> None:
    sources = [*(ROOT / "protocol").glob("*.py"), *(ROOT / "broker").glob("*.py"), *(ROOT / "assistant").glob("*.py")]
    for path in [*sources, *(ROOT / "boss").glob("*.py")]:
        assert not re.search(r"\btime\.time\(|datetime\.now|utcnow", path.read_text()), path
