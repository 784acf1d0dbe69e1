"""What each policy saves of a Transformer's training at equal BLEU, in Boss tokens and in wall time.

    python -m benchmarks.translation                   # goes on where it was interrupted
    python -m benchmarks.translation --only-report     # runs nothing
    python -m benchmarks.translation --tier translation-medium --size base --device cuda --bf16 --max-tokens 16000 \
        --most-words 60 --epochs 20                    # on a GPU host

The small tier's English-German pairs of at most five words a side, cut by token budget; uniform at four budgets, the
others at 0.6 of the passes. A run is scored by its averaged weights: BLEU and chrF of the test part with a
beam of 4, loss per token of the validation part without label smoothing. BLEU on such text compares with nothing but
itself. The seeds were used for nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from autoassist.compare_result import read_comparison
from benchmarks.savings import STOPPED, call, note_machine
from benchmarks.translation_report import COMPARISON, RESULT_FILE, print_rows, rows_of, write_rows
from benchmarks.translation_scores import scored
from protocol.errors import DataError
from workloads import load_workload
from workloads.text.pairs import to_tsv
from workloads.translation import Translation

POLICIES = ("uniform", "random-drop", "autoassist-paper", "infobatch", "autoassist")
ALL_BUDGETS = ("uniform",)
BUDGETS = (1.0, 0.8, 0.6, 0.4)
JUDGED = 0.6
PAPERS_FLOOR = 0.5
"""γ for translation in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class TranslationBenchmark:
    """Settings of the benchmark."""

    tier: str = "translation"
    """Workload whose catalogues serve: translation, or translation-medium."""

    size: str = "tiny"
    """Model: tiny, small or base."""

    most_words: int = 5
    """Pairs with more words on a side are left out; 60 leaves out none."""

    epochs: int = 8
    """Of the full training."""

    max_tokens: int = 512
    """Of a step, padding counted."""

    seeds: int = 3
    """How many seeds."""

    first_seed: int = 301
    """The first of them; the others follow it."""

    policies: tuple[str, ...] = POLICIES
    """All but uniform run at 0.6 of the passes alone."""

    budgets: tuple[float, ...] = BUDGETS
    """Shares of the full training's passes."""

    device: str = "cpu"
    """Where the Boss computes: cpu or cuda."""

    bf16: bool = False
    """Autocast to bfloat16, on a GPU."""

    options: tuple[str, ...] = ()
    """Settings for all runs or one policy's, as `autoassist compare --set` takes them."""

    out: Path = Path("runs/translation")
    """Where the runs go."""

    results: Path = Path("docs/results")
    """Where translation.json goes."""

    only_report: bool = False
    """Run nothing; write what is complete."""

    @property
    def pairs(self) -> Path:
        """The sentence pairs that all runs train on, made once."""
        return self.out / f"{self.tier}-{self.most_words}.tsv"


def words_of(settings: TranslationBenchmark) -> list[str]:
    """``autoassist compare`` for all runs."""
    only = [f"{policy}={JUDGED}" for policy in settings.policies if policy not in ALL_BUDGETS]
    options = [f"max_tokens={settings.max_tokens}"]
    options += [f"autoassist-paper:floor={PAPERS_FLOOR}"] if "autoassist-paper" in settings.policies else []
    return [
        *("compare", "translation", "--data", str(settings.pairs.absolute()), "--model", settings.size),
        *("--policies", *settings.policies, "--budgets", *map(str, settings.budgets)),
        *(("--only", *only) if only else ()),
        *("--seeds", str(settings.seeds), "--first-seed", str(settings.first_seed)),
        *("--epochs", str(settings.epochs), "--device", settings.device),
        *(("--bf16",) if settings.bf16 else ()),
        *("--set", *options, *settings.options),
        *("--out", str(settings.out / COMPARISON)),
    ]


def make_pairs(settings: TranslationBenchmark) -> None:
    """Write the pairs that are short enough; raises DataError where the catalogues cannot be had."""
    if settings.pairs.exists():
        return
    workload = load_workload(settings.tier)
    assert isinstance(workload, Translation)
    if workload.fall_back is not None:
        raise DataError(f"{settings.tier}: no source could serve it, and a small set would say nothing; see the log")
    corpus = workload.corpus
    short = [pair for part in (corpus.train, corpus.validation, corpus.test) for pair in part if fits(pair, settings)]
    settings.pairs.parent.mkdir(parents=True, exist_ok=True)
    part = settings.pairs.with_suffix(".part")
    part.write_bytes(to_tsv(short))
    part.replace(settings.pairs)


def fits(pair: Sequence[str], settings: TranslationBenchmark) -> bool:
    """Whether both sides are short enough."""
    return max(len(side.split()) for side in pair) <= settings.most_words


def conclude(settings: TranslationBenchmark) -> int:
    """Score what has been run, and write the rows; 1 where the comparison is not complete."""
    folder = settings.out / COMPARISON
    try:
        comparison = read_comparison(folder)
    except DataError as error:
        print(f"nothing is complete in {folder}: {error}")
        return 1
    scores = scored(comparison, folder, settings.pairs, settings.device)
    rows = rows_of(comparison, scores)
    path = settings.results / RESULT_FILE
    facts = {"size": settings.size, "most_words": settings.most_words, "max_tokens": settings.max_tokens}
    write_rows(path, rows, comparison, scores, out=settings.out, device=settings.device, tier=settings.tier, **facts)
    print_rows(rows)
    print(f"rows: {path}")
    return 0


def main(settings: TranslationBenchmark) -> int:
    """Run what is missing, score it, and write the table."""
    if settings.only_report:
        return conclude(settings)
    make_pairs(settings)
    note_machine(settings.out)
    code = call("-m", "autoassist", *words_of(settings))
    if code >= STOPPED:
        print("stopped; the same command goes on")
    return code or conclude(settings)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(TranslationBenchmark)))
