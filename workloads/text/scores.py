"""BLEU and chrF by sacrebleu, with the signatures that say how they were computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from protocol.errors import WorkloadError


@dataclass(frozen=True)
class Scores:
    """Of a corpus."""

    bleu: float
    """0 … 100."""
    chrf: float
    """0 … 100."""
    bleu_signature: str
    chrf_signature: str

    @property
    def bleu_words(self) -> str:
        """For the log, as sacrebleu has it."""
        return f"BLEU|{self.bleu_signature} = {self.bleu:.2f}"

    @property
    def chrf_words(self) -> str:
        """For the log, as sacrebleu has it."""
        return f"chrF2|{self.chrf_signature} = {self.chrf:.2f}"


def corpus_scores(translations: Sequence[str], references: Sequence[str]) -> Scores:
    """Of translations, detokenised, against one reference each."""
    bleu, chrf = _metrics()
    bleu_score = bleu.corpus_score(list(translations), [list(references)]).score
    chrf_score = chrf.corpus_score(list(translations), [list(references)]).score
    return Scores(bleu_score, chrf_score, str(bleu.get_signature()), str(chrf.get_signature()))


def share_of_bleu(references: Sequence[str]) -> float:
    """Of those with at least the four words whose groups BLEU counts: where none has, it is 0 for whatever translation.

    Words, and signs apart from them, as sacrebleu cuts them.
    """
    tokenizer = _metrics()[0].tokenizer
    return sum(len(tokenizer(reference).split()) >= 4 for reference in references) / max(1, len(references))


def _metrics() -> tuple[Any, Any]:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise WorkloadError("sacrebleu is not installed; pip install 'autoassist[workloads]'") from error
    return BLEU(), CHRF()
