"""The command line: made from the settings dataclasses. torch is imported by the commands that need it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

from autoassist.notices import LogLevel, set_up_logging
from autoassist.streams import mute_stdout, open_closed_streams, words_of
from protocol.cores import keep_aside
from protocol.errors import AutoAssistError, RankLost, SettingError
from protocol.logs import LAST_WORDS
from protocol.processes import ask_nothing_of_the_terminal, die_with_parent

PARENT_VARIABLE = "AUTOASSIST_PARENT"
ALIASES = {"--connect-timeout": "--connect-timeout-s", "--reconnect-timeout": "--reconnect-timeout-s"}
"""Options without their unit."""


def _commands() -> dict[str, tuple[str, str]]:
    return {
        "run": ("autoassist.run_command", "RunCommand"),
        "broker": ("autoassist.roles", "BrokerCommand"),
        "assistant": ("autoassist.roles", "AssistantCommand"),
        "boss": ("autoassist.boss_command", "BossCommand"),
        "compare": ("autoassist.compare", "CompareCommand"),
        "compare-metric": ("autoassist.metric_command", "MetricCommand"),  # a question of compare's, alike
        "compare-oracle": ("autoassist.oracle_command", "OracleCommand"),  # one run of compare's, not in the usage
        "export": ("autoassist.export", "ExportCommand"),
        "report": ("autoassist.report.command", "ReportCommand"),
        "translate": ("autoassist.translate_command", "TranslateCommand"),
        "doctor": ("autoassist.doctor.command", "DoctorCommand"),
        "keys": ("autoassist.keys_command", "KeysCommand"),
        "top": ("autoassist.top", "TopCommand"),
        "monitor": ("autoassist.monitor_command", "MonitorCommand"),
    }


USAGE = """usage: autoassist COMMAND …   (autoassist COMMAND --help tells more)

  run WORKLOAD         train here: broker, Assistant and Boss as processes of this machine
  broker               the batch broker alone
  assistant WORKLOAD   one Assistant
  boss WORKLOAD        the Boss
  top [RUN_DIR|ADDR]   watch a run: queues, staleness, what is kept, whether the Boss waits
  monitor [RUN_DIR|…]  the same in a browser: live charts, and the instances
  compare WORKLOAD     train with several policies and budgets, and say whether selection pays here
  report RUN_DIR       write a run, or a comparison, as one HTML file: curves, tables, settings, faults met
  export RUN_DIR       write a run's batches, losses or windows as JSON lines or CSV
  translate RUN_DIR    translate lines of standard input with the model of a translation run
  doctor               look this installation over (--broker ADDR too), and say what to do
  keys init DIR        make keys, so that only who holds one may join (also add, list, remove)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failure, 2 for the user's mistake."""
    open_closed_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug, as_json = "--debug" in words, "--log-json" in words
    try:
        code = _answer(words)
        if code is None:
            code = _execute(words, debug, as_json)
        sys.stdout.flush()
        return code
    except RankLost as error:  # not the error that counts: that is the lost rank's
        logging.getLogger("autoassist").warning("%s", error)
        return error.exit_code
    except AutoAssistError as error:
        _complain(str(error), debug, as_json)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        mute_stdout()
        return 1
    except OSError as error:
        _complain(words_of(error), debug, as_json)
        return 1
    except Exception as error:
        _complain(f"{type(error).__name__}: {error} (--debug shows where; please report it)", debug, as_json)
        return 1


def _answer(words: list[str]) -> int | None:
    """To what no command is needed for; None where one is asked for that there is."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        print(metadata.version("autoassist"))
        return 0
    commands = _commands()
    if words[0] not in commands:
        print(f"error: no command {words[0]!r}; one of {', '.join(commands)}\n\n{USAGE}", file=sys.stderr)
        return 2
    return None


def _execute(words: list[str], debug: bool, as_json: bool) -> int:
    _begin_as_role()
    if words[0] == "assistant":  # before NumPy is there; its products are small, and more threads wait for each other
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    set_up_logging(debug=debug, as_json=as_json, level=_level_in(words))
    if words[0] in ("broker", "assistant"):
        keep_aside()
    if words[0] in ("run", "compare", "compare-oracle", "compare-metric", "boss", "translate"):
        _require_working_directory()
    return int(_parse(words[0], words[1:]).execute())


def _require_working_directory() -> None:
    """torch cannot be loaded without one, and says so in words of its own."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise SettingError("the working directory is gone; cd to one that is there") from None


def _parse(command: str, words: list[str]) -> Any:
    import tyro

    module, name = _commands()[command]
    kind = getattr(__import__(module, fromlist=[name]), name)
    words = [
        word.replace(name, ALIASES[name], 1) if (name := word.partition("=")[0]) in ALIASES else word for word in words
    ]
    return tyro.cli(kind, args=words, prog=f"autoassist {command}")


def _level_in(words: list[str]) -> LogLevel:
    """What ``--log-level`` says; the command that parses it refuses one that is none."""
    given = [after for before, after in zip(words, [*words[1:], ""], strict=True) if before == "--log-level"]
    given += [word.partition("=")[2] for word in words if word.startswith("--log-level=")]
    return next((level for level in get_args(LogLevel) if given and level == given[-1]), "info")


def _complain(text: str, debug: bool, as_json: bool) -> None:
    """What ends the process: ``error: …``, or the same as JSON."""
    if as_json:
        logging.getLogger("autoassist").error("%s", text, exc_info=debug, extra={"ends": True})
        return
    if debug:
        traceback.print_exc()
    print(f"{LAST_WORDS}{text}", file=sys.stderr)


def _begin_as_role() -> None:
    """A launched role gets SIGTERM when its launcher dies, and is nobody's whom the terminal asks."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return
    ask_nothing_of_the_terminal()
    # Ranks whose agent was killed must not say Goodbye for the run: it goes on from their checkpoint.
    die_with_parent(int(parent), signal.SIGKILL if "RANK" in os.environ else signal.SIGTERM)
