"""A small GPT over the user's own text files; instances are packed blocks of subwords."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from protocol.errors import DataError, SettingError, WorkloadError
from protocol.settings import require
from protocol.sparse import SparseRows
from workloads.base import Fingerprint, Metric, Workload
from workloads.cache import cache_dir
from workloads.text.documents import Documents, read_documents
from workloads.text.sizes import DEFAULT_SIZE, SIZES, Size
from workloads.text.subwords import END, VERSION, Sequences, Subwords, kept_sequences, kept_subwords
from workloads.text.tfidf import VERSION as FEATURES_VERSION
from workloads.text.tfidf import kept_features

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

log = logging.getLogger("autoassist.workloads")

BLOCK = 128
"""Tokens that are learned of a block; it has one more, where the first is predicted from."""
WEIGHTS = "boss.pt"
UNITS_A_NAT = 1024
"""The losses of a reference travel beside the targets, as integers."""


class LanguageModel(Workload):
    """``--data`` FILE or DIR: what is in its text files, packed end to end into blocks of 128 subwords.

    4 % of the sections of about 2,000 characters are the test part, 3 % for validation (``validation``), by a hash of
    their text; a loss is the mean over a block's tokens. With ``token_share`` below 1 it is the mean over that share of
    its tokens alone, those whose loss exceeds most what the model of ``reference`` has, the directory of a finished run
    of this workload; subwords are the reference's then.
    """

    name = "lm"

    def __init__(
        self,
        *,
        model: str = "",
        data_dir: Path | None = None,
        data: Path | None = None,
        validation: bool = False,
        token_share: float = 1.0,
        reference: Path | None = None,
    ) -> None:
        """Raises WorkloadError for a model that is none, SettingError for settings that do not go together."""
        super().__init__(model=model, data_dir=data_dir)
        if model not in ("", *SIZES):
            raise WorkloadError(f"model {model!r} is unknown; use {', '.join(SIZES)}")
        is_share = math.isfinite(token_share) and 0.0 < token_share <= 1.0
        require(is_share, "token_share", token_share, "must lie in (0, 1]")
        if (token_share < 1.0) != (reference is not None):
            raise SettingError(
                f"token_share={token_share:g}, reference={reference}: tokens are selected by their loss over a "
                "reference's; give both --token-share below 1 and --reference RUN_DIR, or neither"
            )
        self.data = data if data is not None else data_dir
        self.validation = validation
        self.selected = BLOCK if reference is None else max(1, round(token_share * BLOCK))
        self.reference = reference

    @cached_property
    def documents(self) -> Documents:
        """The text, read on first use; DataError or SettingError if there is none."""
        if self.data is None:
            raise SettingError(f"data is missing; {self.name} needs --data, a text file or a directory of them")
        return read_documents(self.data)

    @cached_property
    def _size(self) -> Size:
        return SIZES[self.model or DEFAULT_SIZE]

    @cached_property
    def subwords(self) -> Subwords:
        """Learned from the training part, or the reference's."""
        if self.reference is not None:
            from workloads.text.gpt import reference_subwords

            return reference_subwords(self.reference / WEIGHTS)
        path = cache_dir() / "lm" / f"{self.documents.digest()}-{self._size.subwords}-v{VERSION}.model"
        return kept_subwords(path, self.documents.train, self._size.subwords)

    def _blocks(self, part: str) -> NDArray[np.int32]:
        """Shape ``(n, BLOCK + 1)``; a block begins with the last token of the one before it.

        A held-out part of fewer tokens is one shorter block, so that few sections are evaluated too.
        """
        stem = f"{self.documents.digest(part)}-{self.subwords.digest()}-{part}-v{VERSION}"
        sections = getattr(self.documents, part)
        (found,) = kept_sequences(cache_dir() / "lm" / f"{stem}.npz", lambda: (self._encoded(sections),))
        available = len(found.tokens) - 1
        length = BLOCK if part == "train" else max(1, min(BLOCK, available))
        count = available // length
        if count < 1:
            raise DataError(f"--data {self.data}: less than a block of {BLOCK} subwords to {part} on; give more text")
        if length < BLOCK:
            log.warning(
                "--data %s: %d subwords in the %s part, too few to judge by; give more text", self.data, length, part
            )
        return np.lib.stride_tricks.sliding_window_view(found.tokens, length + 1)[::length][:count]

    def _encoded(self, sections: Sequence[str]) -> Sequences:
        return self.subwords.encode_whole(sections, last=END)

    @cached_property
    def _train(self) -> NDArray[np.int32]:
        return self._blocks("train")

    @cached_property
    def _held_out(self) -> tuple[str, NDArray[np.int32]]:
        """The part that is evaluated on: its name, and its blocks."""
        part = "validation" if self.validation else "test"
        return part, self._blocks(part)

    def fingerprint(self) -> Fingerprint:
        """Hash of the training part and of the subwords, and the number of blocks."""
        identity = f"{self.documents.digest()}-{self.subwords.digest()}"
        return Fingerprint(f"lm-{self.documents.name}-train:{identity}", len(self._train))

    @cached_property
    def _reference_losses(self) -> NDArray[np.float16] | None:
        """Shape ``(n, BLOCK)``."""
        if self.reference is None:
            return None
        from workloads.text.gpt import kept_reference_losses

        return kept_reference_losses(cache_dir() / "lm", self.reference / WEIGHTS, self._train)

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, L)`` int64 and those that follow ``(B, L)``; with a reference its losses beside these, in 1/1024
        nats: ``(B, 2, L)``."""
        import torch

        rows = np.asarray(ids, dtype=np.int64)
        blocks = self._train[rows].astype(np.int64)
        targets = blocks[:, 1:]
        if self._reference_losses is not None:
            losses = np.rint(self._reference_losses[rows].astype(np.float32) * UNITS_A_NAT).astype(np.int64)
            targets = np.stack([targets, losses], axis=1)
        return torch.from_numpy(blocks[:, :-1].copy()), torch.from_numpy(targets.copy())

    def boss(self) -> nn.Module:
        """A GPT of the size that ``--model`` names."""
        from workloads.text.gpt import Gpt

        return Gpt(self._size, self.subwords.size, self.subwords.model)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of each block's tokens, or of those selected, nats, shape ``(batch,)``."""
        from workloads.text.gpt import mean_of_selected, token_losses

        if targets.ndim == 2:
            return token_losses(outputs, targets).mean(dim=1)
        found = token_losses(outputs, targets[:, 0])
        return mean_of_selected(found, targets[:, 1].float() / UNITS_A_NAT, self.selected)

    def optimizer(self, boss: nn.Module) -> torch.optim.Optimizer:
        """AdamW at the size's own rate; the average of the weights follows its steps."""
        from torch.optim import AdamW

        optimizer = AdamW(boss.parameters(), lr=self._size.peak_lr, betas=(0.9, 0.95), weight_decay=0.1)
        optimizer.register_step_post_hook(lambda *_: boss.average.update(boss))  # type: ignore[operator, union-attr]
        return optimizer

    def evaluate(self, boss: nn.Module, device: torch.device) -> Metric:
        """Perplexity per subword of the test part, or of the validation part, by the averaged weights."""
        from workloads.text.gpt import Gpt, mean_loss, perplexity

        assert isinstance(boss, Gpt)
        part, blocks = self._held_out
        loss = mean_loss(boss, blocks, device)
        return Metric(f"{part}_perplexity", perplexity(loss), higher_is_better=False)

    def features(self) -> SparseRows | None:
        """Hashed TF-IDF of a block's words, and their number: memory maps of files in the cache folder."""
        stem = cache_dir() / "features" / f"{self.fingerprint().dataset_id.replace(':', '-')}-v{FEATURES_VERSION}"
        return kept_features(stem, lambda: [self.subwords.decode(self._train[:, 1:])])

    def preview(self, instance_id: int) -> str:
        """The block's text."""
        return self.subwords.decode([self._train[instance_id, 1:]])[0]
