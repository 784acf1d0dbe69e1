"""English to German: a Transformer over user interface and technical text, or over the user's sentence pairs."""

from __future__ import annotations

import importlib.resources
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from protocol.errors import WorkloadError
from protocol.sparse import SparseRows
from workloads.base import FallBack, Fingerprint, Metric, Workload
from workloads.cache import cache_dir
from workloads.sources import Archive, Files, Source, fall_back_of, load_set
from workloads.text.catalogues import Pair
from workloads.text.debian import MEDIUM, PAIRS_FILE, SMALL, CachedPairs, DebianCatalogues
from workloads.text.pairs import Corpus, parse_tsv, read_given, split_by_hash
from workloads.text.scores import Scores, corpus_scores, share_of_bleu
from workloads.text.sizes import DEFAULT_SIZE, SIZES, Size
from workloads.text.subwords import BEGIN, END, PAD, VERSION, Sequences, Subwords, kept_sequences, kept_subwords
from workloads.text.tfidf import VERSION as FEATURES_VERSION
from workloads.text.tfidf import kept_features

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from workloads.text.decoding import Search

SMOOTHING = 0.1
"""Label smoothing."""
log = logging.getLogger("autoassist.workloads")

EVALUATED_AT_A_TIME = 128
LEAST_SHARE_OF_BLEU = 0.05
"""Of the references that have four words or more; with fewer BLEU is said to tell nothing."""


class Translation(Workload):
    """Gettext catalogues of Debian packages, ``--data`` pairs.tsv, or a directory of ``.mo`` and ``.po`` files.

    An instance is a sentence pair, its loss the mean over its target's subwords of what the cross entropy against the
    smoothed target is above the least that it can be.
    Its domain is named: BLEU on such text compares with nothing but itself. 4 % of the distinct source sentences are
    the test part, 3 % for validation (``validation``), by a hash of the sentence.
    """

    name = "translation"
    packages: ClassVar[tuple[str, ...]] = SMALL

    def __init__(
        self, *, model: str = "", data_dir: Path | None = None, data: Path | None = None, validation: bool = False
    ) -> None:
        """Raises WorkloadError for a model that is none."""
        super().__init__(model=model, data_dir=data_dir)
        if model not in ("", *SIZES):
            raise WorkloadError(f"model {model!r} is unknown; use {', '.join(SIZES)}")
        self.data = data if data is not None else data_dir
        self.validation = validation
        self._parts_scored: set[str] = set()

    def sources(self) -> list[Source]:
        """Where to look, in order."""
        return [CachedPairs(), DebianCatalogues(self.packages)]

    @cached_property
    def corpus(self) -> Corpus:
        """The pairs, loaded on first use; DataError for what the user gave and cannot be read."""
        if self.data is not None:
            return read_given(self.data)
        name = self.name

        def read(files: Files, source: str) -> Corpus:
            return split_by_hash(f"{name}-gettext", parse_tsv(files[PAIRS_FILE], source), source)

        return load_set(Archive(name, {}), self.sources(), read, small_corpus)

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        return Fingerprint(f"{self.corpus.name}-train:{self.corpus.digest()}", len(self.corpus.train))

    def fingerprint(self) -> Fingerprint:
        """Name of the corpus that was served, hash of its training part, and its size."""
        return self._fingerprint

    @property
    def fall_back(self) -> FallBack | None:
        """The small packaged set, where nothing serves the catalogues."""
        return fall_back_of(self.corpus)

    @cached_property
    def _size(self) -> Size:
        return SIZES[self.model or DEFAULT_SIZE]

    def _kept(self, what: str) -> Path:
        """A file of the cache that follows from the training part and the number of subwords."""
        identity = self.corpus.digest()
        return cache_dir() / "translation" / f"{identity}-{self._size.subwords}-v{VERSION}.{what}"

    @cached_property
    def subwords(self) -> Subwords:
        """Of both languages, learned from the training part."""
        texts = (side for pair in self.corpus.train for side in pair)
        return kept_subwords(self._kept("model"), texts, self._size.subwords)

    @cached_property
    def _train(self) -> tuple[Sequences, ...]:
        return kept_sequences(self._kept("npz"), lambda: self._encode(self.corpus.train))

    def _encode(self, pairs: Sequence[Pair]) -> tuple[Sequences, Sequences]:
        return (
            self.subwords.encode([source for source, _ in pairs]),
            self.subwords.encode([target for _, target in pairs]),
        )

    def lengths(self) -> NDArray[np.int64]:
        """Subwords of the longer side, with its END."""
        sources, targets = self._train
        return np.maximum(sources.lengths, targets.lengths) + 1

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Source and target that begins, shape (B, 2, L), and target that ends, (B, L); int64, PAD behind."""
        return _batch(self._train, np.asarray(ids, dtype=np.int64))

    def boss(self) -> nn.Module:
        """A Transformer of the size that ``--model`` names."""
        from workloads.text.transformer import Transformer

        return Transformer(self._size, self.subwords.size, self.subwords.model)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean label-smoothed cross entropy per target token, less its least, nats, shape ``(batch,)``."""
        from workloads.text.transformer import token_losses

        return token_losses(outputs, targets, smoothing=SMOOTHING)

    def token_counts(self, targets: Tensor) -> Tensor:
        """Target tokens of each instance, END among them, shape ``(batch,)``."""
        return (targets != PAD).sum(dim=1)

    def optimizer(self, boss: nn.Module) -> torch.optim.Optimizer:
        """AdamW at the size's own rate; the average of the weights follows its steps."""
        from torch.optim import AdamW

        optimizer = AdamW(boss.parameters(), lr=self._size.peak_lr, betas=(0.9, 0.98), weight_decay=1e-2)
        optimizer.register_step_post_hook(lambda *_: boss.average.update(boss))  # type: ignore[operator, union-attr]
        return optimizer

    def evaluate(self, boss: nn.Module, device: torch.device) -> Metric:
        """BLEU of greedy translations of the test part, or of the validation part, by the averaged weights; 0 … 100."""
        from workloads.text.decoding import Search

        self._average_best(boss, device)
        name = "validation" if self.validation else "test"
        found = self._translated(boss, name, Search(beam=1), device)
        log.info("%s: %s, %s", name, found.bleu_words, found.chrf_words)
        return Metric(f"{name}_bleu", found.bleu)

    def _average_best(self, boss: nn.Module, device: torch.device) -> None:
        """Keep the running average if it is among the best, and choose between it and the best ones' mean."""
        from workloads.text.transformer import Transformer

        assert isinstance(boss, Transformer)
        boss.best.judged_by = self.corpus.held_out_digest()
        boss.best.is_chosen = False
        loss = self.loss_per_token(boss, self.corpus.validation, device)
        boss.best.offer(loss, boss.average.copied(boss))
        boss.best.is_chosen = True
        of_mean = self.loss_per_token(boss, self.corpus.validation, device)
        boss.best.is_chosen = of_mean < loss
        log.info("validation loss per token: running average %.4f, mean of the best %.4f", loss, of_mean)

    def scores(self, boss: nn.Module, search: Search, device: torch.device | str) -> dict[str, float | str]:
        """BLEU and chrF of the test part with sacrebleu's signatures, the loss per token; by the averaged weights."""
        found = self._translated(boss, "test", search, device)
        return {
            "bleu": found.bleu,
            "chrf": found.chrf,
            "test_loss": self.loss_per_token(boss, self.corpus.test, device),
            "validation_loss": self.loss_per_token(boss, self.corpus.validation, device),
            "bleu_signature": found.bleu_signature,
            "chrf_signature": found.chrf_signature,
        }

    def _translated(self, boss: nn.Module, part: str, search: Search, device: torch.device | str) -> Scores:
        from workloads.text.decoding import translate_texts

        pairs: Sequence[Pair] = getattr(self.corpus, part)
        sources, references = [source for source, _ in pairs], [target for _, target in pairs]
        if part not in self._parts_scored and (share := share_of_bleu(references)) < LEAST_SHARE_OF_BLEU:
            log.warning(
                "%s: %.0f %% of the %d references of the %s part have the four words that BLEU wants; it says little "
                "or nothing there: go by chrF and the loss",
                self.corpus.source,
                100.0 * share,
                len(references),
                part,
            )
        self._parts_scored.add(part)
        return corpus_scores(translate_texts(boss, self.subwords, sources, search, device), references)

    def loss_per_token(self, boss: nn.Module, pairs: Sequence[Pair], device: torch.device | str = "cpu") -> float:
        """Mean cross entropy of all target tokens by the averaged weights, without label smoothing, nats."""
        from workloads.text.decoding import averaged
        from workloads.text.transformer import token_losses

        sides = self._encode(pairs)
        order, total = np.argsort(sides[1].lengths, kind="stable"), 0.0
        with averaged(boss) as model:
            for begin in range(0, len(pairs), EVALUATED_AT_A_TIME):
                inputs, targets = _batch(sides, order[begin : begin + EVALUATED_AT_A_TIME])
                inputs, targets = inputs.to(device), targets.to(device)
                losses = token_losses(model(inputs), targets, smoothing=0.0)
                total += float((losses * self.token_counts(targets)).sum())
        return total / float((sides[1].lengths + 1).sum())

    def features(self) -> SparseRows | None:
        """Hashed TF-IDF of both sides' words, and their lengths: memory maps of files in the cache folder."""
        stem = cache_dir() / "features" / f"{self.corpus.digest()}-tfidf-v{FEATURES_VERSION}"
        return kept_features(stem, lambda: [[pair[side] for pair in self.corpus.train] for side in (0, 1)])

    def preview(self, instance_id: int) -> str:
        """The pair."""
        source, target = self.corpus.train[instance_id]
        return f"{source}\n→ {target}"


class TranslationMedium(Translation):
    """The same from more packages: 117.8 MB to download."""

    name = "translation-medium"
    packages = MEDIUM


def small_corpus() -> Corpus:
    """1,502 pairs that come with AutoAssist (Django's and Wagtail's messages), so that a bare installation trains."""
    content = importlib.resources.files("workloads.text").joinpath("small_pairs.tsv").read_bytes()
    return split_by_hash("django-wagtail", parse_tsv(content, "small_pairs.tsv"), "AutoAssist itself")


def _batch(sides: tuple[Sequences, ...], ids: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    import torch

    sources, targets = sides
    width = int(max(sources.lengths[ids].max(), targets.lengths[ids].max())) + 1
    inputs = np.stack([sources.padded(ids, width, last=END), targets.padded(ids, width, first=BEGIN)], axis=1)
    return torch.from_numpy(inputs), torch.from_numpy(targets.padded(ids, width, last=END))
