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
