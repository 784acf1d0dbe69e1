"""The directory of a run: claimed by exactly one, and given back where nothing came of the run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from autoassist.remembered import COMMAND_FILE, Remembered
from broker.kept_lengths import LENGTHS_FILE
from broker.store import DATABASE, LOGS
from protocol.errors import SettingError
from protocol.report import REPORT_FILE

START_S = 30.0
"""How long a broker may take until it listens."""
LEAST_READ_BYTES_PER_S = 1e6
"""One that goes on with a run reads its logs first, however slow the disk is."""
MOST_OF_A_SECOND = 1000
"""So many runs of one name may begin in one second."""


class DirectoryTaken(SettingError):
    """It holds a run already."""


def require_unused(run_dir: Path) -> None:
    """Raise SettingError where the directory holds a run: begun again there, it would go on with fresh weights."""
    if (run_dir / COMMAND_FILE).exists():
        raise DirectoryTaken(
            f"run_dir={run_dir}: holds a run already; go on with it by --resume {run_dir}, or give another --run-dir"
        )
    if (run_dir / DATABASE).exists():
        raise DirectoryTaken(
            f"run_dir={run_dir}: holds a run already, of a script or of roles of their own; a script goes on with it "
            "by Feed.local(…, state=…), or by Feed.connect(…, state=…) to a broker that serves it, autoassist broker "
            f"--resume --run-dir {run_dir}; or give another --run-dir"
        )


def listens_within_s(run_dir: Path) -> float:
    """How long a broker may take until it listens: one that goes on with a run reads its logs first."""
    return START_S + log_bytes(run_dir) / LEAST_READ_BYTES_PER_S


def log_bytes(run_dir: Path, names: Sequence[str] = LOGS) -> int:
    """Of the run's logs, as far as they are there."""
    with suppress(OSError):
        return sum(path.stat().st_size for name in names if (path := run_dir / name).exists())
    return 0


def names_for(name: str) -> Iterator[Path]:
    """Directories under ``runs/`` that nobody has yet, in the order in which they are to be tried."""
    first = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (first, *(first.with_name(f"{first.name}-{i}") for i in range(2, MOST_OF_A_SECOND)))
    yield from (path for path in candidates if not path.exists())
    raise SettingError(f"run_dir={first}: is taken, with all numbers behind it; give a --run-dir of your own")


def new_folder(name: str) -> Path:
    """Make one of them; of those who begin at the same moment each has its own. Raises SettingError."""
    for path in names_for(name):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise unwritable(path, error) from None
        return path
    raise AssertionError


def unwritable(path: Path, error: OSError) -> SettingError:
    """What to say of a directory that cannot be had."""
    return SettingError(f"run_dir={path}: {error.strerror or error}; give a --run-dir that can be written")


OF_A_RUN = (
    *(COMMAND_FILE, "addresses.json*", "assistants", "boss*.p*t", "broker.*", "checkpoints", LENGTHS_FILE, "logs"),
    *(*LOGS, f"{REPORT_FILE}*", f"{DATABASE}*", "snapshot*", "tensorboard"),
)
"""Names that a run gives to what it puts into its directory."""


class RunDirectory:
    """A new run's directory, from the claim on; raises SettingError where it cannot be had."""

    def __init__(self, path: Path, began: Remembered) -> None:
        self.path = path
        self._made = [folder for folder in (path, *path.absolute().parents) if not folder.exists()]
        self._found: set[str] = set()
        try:
            self._claim(began)
        except OSError as error:
            self.withdraw()
            raise unwritable(path, error) from None

    @classmethod
    def new(cls, name: str, began: Remembered) -> RunDirectory:
        """One under ``runs/`` that nobody has; of runs that begin at the same moment each has its own."""
        for path in names_for(name):
            with suppress(DirectoryTaken):
                return cls(path, began)
        raise AssertionError

    def _claim(self, began: Remembered) -> None:
        """Made in one step, the command file decides between two that want the same directory."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._found = {entry.name for entry in self.path.iterdir()}
        require_unused(self.path)
        content = began.encoded()
        try:
            with (self.path / COMMAND_FILE).open("xb") as file:
                file.write(content)
        except FileExistsError:
            require_unused(self.path)
        (self.path / "logs").mkdir(exist_ok=True)

    def withdraw(self) -> None:
        """Remove what this run has put there, and nothing that has come there from elsewhere meanwhile."""
        with suppress(OSError):
            for entry in list(self.path.iterdir()):
                if entry.name in self._found or not any(fnmatch(entry.name, name) for name in OF_A_RUN):
                    continue
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
        self._remove_made()

    def _remove_made(self) -> None:
        """Innermost first, as far as they are empty."""
        with suppress(OSError):
            for folder in self._made:
                folder.rmdir()
