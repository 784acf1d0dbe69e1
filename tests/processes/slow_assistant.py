"""An Assistant that takes its time: ``python slow_assistant.py PYTHON -m autoassist assistant …``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from assistant.core import AssistantCore
from autoassist.cli import main
from protocol.messages import Selection, Window

SCORING_S = 2.0
score = AssistantCore._score


def slowly(core: AssistantCore, window: Window) -> Selection:
    """As if its features were read from a slow disk; it gives signs of life neither meanwhile."""
    threading.Event().wait(SCORING_S)
    return score(core, window)


AssistantCore._score = slowly  # type: ignore[method-assign]
raise SystemExit(main(sys.argv[4:]))
