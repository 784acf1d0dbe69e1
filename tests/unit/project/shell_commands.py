"""What a shell script or a manifest tells our command line to do, read by the command line itself."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from torch.distributed.run import get_args_parser

from autoassist import cli


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``$NAME``, ``${NAME}``, ``$(NAME)`` as a shell or a container would; KeyError for one that nobody sets."""
    return re.sub(r"\$(?:\{(\w+)\}|\((\w+)\)|(\w+))", lambda found: variables[found[1] or found[2] or found[3]], text)


def commands(script: str) -> list[str]:
    """The lines that start one of our roles, with what continues them."""
    joined = re.sub(r"\\\n\s*", " ", script)
    return [
        line.strip() for line in joined.splitlines() if re.search(r"\bautoassist (broker|assistant|boss|keys) ", line)
    ]


def parse(line: str, variables: Mapping[str, str]) -> Any:
    """The command that a line stands for; SystemExit, as a user would see it, for words that there are not."""
    words = shlex.split(expand(line, variables))
    words = words[words.index("autoassist") + 1 :]
    ends = [position for position, word in enumerate(words) if word == "&" or ">" in word]
    return cli._parse(words[0], words[1 : min(ends, default=len(words))])


def parse_torchrun(line: str, variables: Mapping[str, str]) -> Namespace:
    """What torchrun makes of the words before ours."""
    words = shlex.split(expand(line, variables))
    parsed: Namespace = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    return parsed
