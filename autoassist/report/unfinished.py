"""The directory of a comparison is none of a run: whoever is given it says what it is, and where its runs are."""

from __future__ import annotations

from pathlib import Path

from autoassist.compare_result import RESULT_FILE
from broker.addresses import ADDRESSES_FILE

LOCK_FILE = "compare.lock"
"""As compare_runs has it, which takes seconds to import for what a sentence needs."""
MOST_NAMED = 3


def comparison_words(folder: Path) -> str:
    """What to say of a comparison's directory where a run's is wanted; "" for any other directory."""
    if not (folder / LOCK_FILE).exists():
        return ""
    begun = [path for path in folder.glob(f"*-seed*/{ADDRESSES_FILE}") if path.is_file()]
    begun.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    named = [str(path.parent) for path in begun[:MOST_NAMED]]
    rest = [f"and {len(begun) - len(named)} older ones"] if len(begun) > len(named) else []
    runs = f"its runs, each of them a directory for report, export, top and monitor: {', '.join(named + rest)}"
    if not named:
        runs = "none of its runs has begun yet"
    if (folder / RESULT_FILE).exists():
        return f"a comparison, which autoassist report {folder} shows; {runs}"
    return f"a comparison that is not finished; the same autoassist compare command goes on with it; {runs}"
