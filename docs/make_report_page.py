"""Writes docs/REPORT.md from the report's types, so that the page is never behind them.

python -m docs.make_report_page
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "protocol" / "report.py"
TARGET = ROOT / "docs" / "REPORT.md"


def page() -> str:
    """The page's text."""
    lines = [
        "# The report",
        "",
        "`RUN_DIR/report.json` is written after each epoch and at the end, atomically. It is validated when it is read",
        "(`protocol.report.read_report`), and `protocol.report.schema()` gives its JSON Schema. Fields are only added.",
        "This page is made from the types by `python -m docs.make_report_page`.",
        "",
        "`autoassist report RUN_DIR` tells the same to somebody who reads: `RUN_DIR/report.html`, one file that loads",
        "nothing from anywhere, with curves (metric, loss, what was kept, staleness, wait), histograms of π and of the",
        "losses, tables by epoch and Assistant, faults met and what the roles warned of, instances set aside with what",
        "they lost, settings and versions. The run may be under way, killed or damaged: what could not be read is",
        "said, and what is whole is shown. Of a comparison's directory it makes one of the comparison.",
    ]
    for name, body in re.findall(r"^class (\w+)\(msgspec.*?\):\n(.*?)(?=^\S)", SOURCE.read_text(), re.M | re.S):
        found = re.search(r'"""(.*?)"""', body, re.S)
        assert found is not None
        docstring = inspect.cleandoc(found.group(1))
        lines += ["", f"## {name}", "", docstring, "", "| field | type | meaning |", "|---|---|---|"]
        for field, kind, meaning in re.findall(r"^    (\w+): ([^=#\n]+?)(?: = [^#\n]+)?(?:  # (.*))?$", body, re.M):
            lines.append(f"| `{field}` | `{kind.strip().replace('|', 'or')}` | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(page())
