"""``autoassist report``: a run, or a comparison, as one HTML file that needs nothing else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from autoassist.compare_result import RESULT_FILE, read_comparison
from autoassist.report.compare import comparison_page
from autoassist.report.page import run_page
from autoassist.report.sources import read_sources
from autoassist.roles import Flat, LogSettings
from protocol.errors import DataError, StoreError

PAGE_FILE = "report.html"


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Write a run's story as one HTML file: curves, tables, settings, versions, faults met. It loads nothing from
    anywhere, so it can be mailed. The run may be unfinished or damaged; what could not be read is said."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Directory of a run, or of a comparison (compare's --out)."""
    output: Path | None = None
    """File to write; report.html in the directory if not given."""
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Write; returns the exit code."""
        if not self.run_dir.is_dir():
            raise DataError(f"{self.run_dir}: is no directory; give the directory of a run")
        if (self.run_dir / RESULT_FILE).exists():
            document = comparison_page(read_comparison(self.run_dir), self.run_dir)
        else:
            document = run_page(read_sources(self.run_dir))
        path = self.output if self.output is not None else self.run_dir / PAGE_FILE
        write_whole(path, document)
        print(path)
        return 0


def write_whole(path: Path, content: bytes) -> None:
    """Put a file in its place in one move; into what is there and no file, a pipe or ``/dev/stdout``, it is written.
    Raises StoreError where it cannot be."""
    try:
        is_device = path.absolute().parts[1:2] in (("dev",), ("proc",))  # /dev/stdout may be a file, with content
        if is_device or (path.exists() and not path.is_file()):
            with path.open("ab") as file:
                file.write(content)
            return
        place = path.resolve()  # a link stays one
        part = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            part.write_bytes(content)
            part.replace(place)
        except OSError:
            part.unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise StoreError(
            f"{path}: {getattr(error, 'strerror', None) or error}; give --output a file that can be written"
        ) from None
