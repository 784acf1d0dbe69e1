"""Subwords: a byte-pair vocabulary that is learned from the training part once and kept in the cache."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import DataError, WorkloadError
from workloads.cache import file_lock, replacing, sha256_hex, undamaged, write_atomically

PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3
MOST_SUBWORDS = 126
"""Of a sentence; END makes one more."""
MOST_BYTES = 1 << 16
"""Of a text that subwords are learned from; longer ones are only coded."""
VERSION = 1
"""Part of the cached files' names; raise it whenever the same text would be coded otherwise."""

I32 = NDArray[np.int32]


@dataclass(frozen=True)
class Sequences:
    """Many sequences of subwords, one after the other."""

    tokens: I32
    """Shape ``(total,)``."""
    offsets: NDArray[np.int64]
    """Where each begins, and last the end; shape ``(n + 1,)``."""

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Sequences:
        """From lists."""
        offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
        tokens = np.fromiter((token for sequence in sequences for token in sequence), np.int32, offsets[-1])
        return cls(tokens, offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Shape ``(n,)``."""
        return np.diff(self.offsets)

    def padded(self, ids: NDArray[np.int64], width: int, *, first: int = -1, last: int = -1) -> NDArray[np.int64]:
        """Rows of ``width``, PAD behind, with the token ``first`` before and ``last`` after each where they are ≥ 0."""
        begins, lengths = self.offsets[ids], self.lengths[ids]
        before = int(first >= 0)
        rows = np.full((len(ids), width), PAD, dtype=np.int64)
        if before:
            rows[:, 0] = first
        columns = np.arange(width - before)
        is_there = columns < lengths[:, None]
        rows[:, before:][is_there] = self.tokens[(begins[:, None] + columns)[is_there]]
        if last >= 0:
            rows[np.arange(len(ids)), before + lengths] = last
        return rows


class Subwords:
    """Text to subwords and back."""

    def __init__(self, model: bytes) -> None:
        if not model:  # sentencepiece takes it, and fails at the first text
            raise ValueError("an empty model of subwords")
        self.model = model
        self._processor: Any = _sentencepiece().SentencePieceProcessor(model_proto=model)

    def digest(self) -> str:
        """Of the model, 8 hexadecimal digits."""
        return sha256_hex(self.model)[:8]

    @property
    def size(self) -> int:
        """Number of subwords, those with a meaning of their own too."""
        return int(self._processor.vocab_size())

    def encode(self, texts: Sequence[str]) -> Sequences:
        """At most ``MOST_SUBWORDS`` of each; what is longer is cut off."""
        return Sequences.of([tokens[:MOST_SUBWORDS] for tokens in self._processor.encode(list(texts))])

    def encode_whole(self, texts: Sequence[str], last: int) -> Sequences:
        """All of each, with the token ``last`` behind."""
        return Sequences.of([[*tokens, last] for tokens in self._processor.encode(list(texts))])

    def decode(self, sequences: Iterable[Iterable[int]]) -> list[str]:
        """Text again."""
        return [str(text) for text in self._processor.decode([list(map(int, tokens)) for tokens in sequences])]


def learn(texts: Iterable[str], size: int) -> bytes:
    """A byte-pair model of at most ``size`` subwords; characters that it lacks become bytes. The same every time.

    Raises DataError for texts that none can be learned from.
    """
    model, trainer = io.BytesIO(), _sentencepiece().SentencePieceTrainer
    try:
        trainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            max_sentence_length=MOST_BYTES,
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            minloglevel=2,
        )
    except RuntimeError as error:
        if "sentences_.empty()" in str(error):
            raise DataError(
                f"no subwords can be learned: every text of the training part is empty or longer than {MOST_BYTES} "
                "bytes; break long lines and paragraphs"
            ) from error
        reason = str(error).rpartition("] ")[2].strip()
        raise DataError(
            f"no {size} subwords can be learned from the training part ({reason}); name a --model with more subwords, "
            "or give text of fewer different characters"
        ) from error
    return model.getvalue()


def kept_subwords(path: Path, texts: Iterable[str], size: int) -> Subwords:
    """Those of a file in the cache, learned by whichever process comes first, or finds it damaged."""
    with file_lock(path.with_name(f"{path.name}.lock")):
        found = undamaged([path], lambda: Subwords(path.read_bytes()))
        if found is None:
            write_atomically(path, learn(texts, size))
            found = Subwords(path.read_bytes())
        return found


def kept_sequences(path: Path, make: Callable[[], Sequence[Sequences]]) -> tuple[Sequences, ...]:
    """Encoded texts out of a file in the cache; ``make()`` gives them where it is missing or damaged."""
    with file_lock(path.with_name(f"{path.name}.lock")):
        found = undamaged([path], lambda: _read_sequences(path))
        if found is None:
            arrays = {f"{name}{i}": getattr(s, name) for i, s in enumerate(make()) for name in ("tokens", "offsets")}
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
            found = _read_sequences(path)
        return found


def _read_sequences(path: Path) -> tuple[Sequences, ...]:
    """All of the file; its own checksums tell damage."""
    with path.open("rb") as file, np.load(file) as found:  # numpy leaves a damaged one open that it opens itself
        count = len(found.files) // 2
        return tuple(Sequences(found[f"tokens{i}"], found[f"offsets{i}"]) for i in range(count))


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise WorkloadError("sentencepiece is not installed; pip install 'autoassist[workloads]'") from error
    return sentencepiece
