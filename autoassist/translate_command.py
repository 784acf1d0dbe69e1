"""``autoassist translate``: what a finished translation run has learned, on lines of standard input, or scored."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from autoassist.remembered import WEIGHTS_FILE, Remembered
from autoassist.roles import Flat, LogSettings
from boss.train import DeviceName, TrainSettings
from protocol.errors import DataError
from protocol.report import REPORT_FILE, read_report
from protocol.settings import require

if TYPE_CHECKING:
    from workloads.text.subwords import Subwords
    from workloads.text.transformer import Transformer
    from workloads.translation import Translation

log = logging.getLogger("autoassist.translate")

LINES_AT_A_TIME = 512


@dataclass(frozen=True, kw_only=True)
class TranslateCommand:
    """Translate lines of standard input by the averaged weights of a finished run of the workload translation."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    beam: int = 4
    """Hypotheses that are followed at a time; 1 is greedy, and fastest."""
    length_penalty: float = 0.6
    """α of ((5 + length)/6)^α, by which a hypothesis' log-probability is divided; more prefers longer translations."""
    device: DeviceName = "auto"
    """Where to compute; auto takes the GPU if there is one."""
    score: bool = False
    """Read no lines, but translate the run's own test part, and print as JSON: BLEU and chrF with sacrebleu's
    signatures, and the loss per token of test and validation part."""
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """A line out for each line in, an empty one for an empty one; returns the exit code."""
        from workloads.text.decoding import Search, translate_texts

        require(1 <= self.beam <= 64, "beam", self.beam, "must lie in 1 … 64")
        require(0.0 <= self.length_penalty <= 5.0, "length_penalty", self.length_penalty, "must lie in 0 … 5")
        device = TrainSettings(device=self.device).resolved_device()
        model, subwords = read_translator(self.run_dir)
        warn_if_unfinished(self.run_dir)
        model.to(device)
        search = Search(beam=self.beam, length_penalty=self.length_penalty)
        if self.score:
            workload = read_workload(self.run_dir)
            require_same_held_out(self.run_dir, model, workload)
            print(json.dumps(workload.scores(model, search, device), indent=1))
            return 0
        for lines in parts(sys.stdin.buffer, 1 if sys.stdin.isatty() else LINES_AT_A_TIME):
            for line in translate_texts(model, subwords, lines, search, device):
                print(line)
            sys.stdout.flush()
        return 0


def warn_if_unfinished(run_dir: Path) -> None:
    """A run that was stopped has left its weights, too."""
    if (run_dir / REPORT_FILE).is_file() and (status := read_report(run_dir).status) != "finished":
        log.warning("%s: the run is %s, not finished; these are its weights so far", run_dir, status)


def parts(stream: Iterable[bytes], at_a_time: int) -> Iterator[Sequence[str]]:
    """Lines without their ends, some at a time; raises DataError where one is not UTF-8, whatever the locale says."""
    numbered = enumerate(stream, start=1)
    while lines := [_text(line, number) for number, line in islice(numbered, at_a_time)]:
        yield lines


def _text(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input: line {number} is not UTF-8 ({error.reason}); convert it, as iconv does"
        ) from None


def read_workload(run_dir: Path) -> Translation:
    """The data that a run was trained on; raises DataError where it is another now."""
    from workloads.translation import Translation

    began, report = Remembered.read(run_dir), read_report(run_dir)
    workload = began.data.load(began.workload)
    if not isinstance(workload, Translation):
        raise DataError(f"{run_dir} is of workload {began.workload}, which translates nothing; give a translation run")
    if (found := workload.fingerprint().dataset_id) != report.dataset_id:
        raise DataError(
            f"{run_dir} was trained on {report.dataset_id}, the data is {found} now; bring the old one back"
        )
    return workload


def require_same_held_out(run_dir: Path, model: Transformer, workload: Translation) -> None:
    """Raises DataError where the run was evaluated on other sentences; weights that do not say are believed."""
    found, known = workload.corpus.held_out_digest(), model.best.judged_by
    if known not in ("", found):
        raise DataError(
            f"{run_dir} was evaluated on validation and test part {known}, the data has {found} now; "
            "bring the old ones back"
        )


def read_translator(run_dir: Path) -> tuple[Transformer, Subwords]:
    """The trained model of a run and its subwords, from the weights alone; raises DataError where there is none."""
    from workloads.text.trained import damage_named, read_trained
    from workloads.text.transformer import from_weights
    from workloads.translation import Translation, TranslationMedium

    began, path = Remembered.read(run_dir), run_dir / WEIGHTS_FILE
    if not path.is_file():
        raise DataError(f"{path} is not there: the run is not finished; autoassist run --resume {run_dir} goes on")
    try:
        weights = read_trained(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; make the file readable, or bring it back") from None
    is_translator = {"vocabulary", "average._extra_state", "encoder_norm.weight"} <= weights.keys()
    if not is_translator and began.workload not in (Translation.name, TranslationMedium.name):
        raise DataError(f"{path} is of workload {began.workload}, which translates nothing; give a translation run")
    with damage_named(path):
        return from_weights(weights, began.data.model)
