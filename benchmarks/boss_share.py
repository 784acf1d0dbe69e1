"""An Assistant's work for one step of the Boss, beside that step: CPU time of one process, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from assistant.core import AssistantCore
from assistant.policies import make_policy
from benchmarks.boss_pass_all import Training
from benchmarks.common import image_like
from protocol.arrays import F32, I64
from protocol.codec import decode, encode
from protocol.messages import Envelope, LossRecord, Selection, Window
from protocol.settings import RunSettings

N, WIDTH, CLASSES = 60_000, 784, 10
"""As fashion-mnist is."""
BOSS_STEPS = 20


def assistant_share(records: int, batch_size: int, seed: int) -> dict[str, float]:
    """CPU time for a batch: of the Boss's step, of learning from its losses, of scoring what it is cut from."""
    core, rng = an_assistant(seed), np.random.default_rng(seed)
    losses = rng.lognormal(sigma=1.5, size=N).astype(np.float32)
    first, second = (np.array_split(rng.permutation(N), N // batch_size) for _ in range(2))
    records = min(records, len(first) // 2)
    _learn(core, first[:-records], losses)
    first_s = _cpu_s(lambda: _learn(core, first[-records:], losses)) / records
    boss = Training(seed)
    images, labels = torch.rand(batch_size, 1, 28, 28), torch.randint(CLASSES, (batch_size,))
    boss(images, labels, torch.Tensor.mean)
    boss_s = _cpu_s(partial(_train, boss, images, labels)) / BOSS_STEPS
    learn_s = _cpu_s(lambda: _learn(core, second[:records], losses)) / records
    score_s, code_s = (batch_size * each for each in _select(core, rng, records))
    code_s += _decode_s(first[:records], losses)
    return {
        "boss_step_ms": 1e3 * boss_s,
        "first_learn_us": 1e6 * first_s,
        "first_learn_percent": 100 * first_s / boss_s,
        "learn_us": 1e6 * learn_s,
        "learn_percent": 100 * learn_s / boss_s,
        "bosses_by_learning": boss_s / learn_s,
        "score_us": 1e6 * score_s,
        "code_us": 1e6 * code_s,
        "bosses": boss_s / (learn_s + score_s + code_s),
    }


def an_assistant(seed: int) -> AssistantCore:
    """The default policy, with features and labels, in its second epoch."""
    rng = np.random.default_rng(seed)
    features = image_like(rng, N, WIDTH)
    run = RunSettings(seed=seed)
    return AssistantCore(run, make_policy(run, N, features, rng.integers(0, CLASSES, N)))


def _train(boss: Training, images: torch.Tensor, labels: torch.Tensor) -> None:
    for _ in range(BOSS_STEPS):
        boss(images, labels, torch.Tensor.mean)


def _cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _record(position: int, ids: I64, losses: F32) -> LossRecord:
    return LossRecord(
        position=position,
        step=position,
        rank=0,
        learned_through=position,
        epoch=position // (N // len(ids)),
        ids=ids,
        losses=losses[ids],
        keep_probabilities=np.ones(len(ids), dtype=np.float32),
    )


def _learn(core: AssistantCore, batches: list[I64], losses: F32) -> None:
    for ids in batches:
        core.receive(_record(core.position, ids, losses))
        core.work()


def _select(core: AssistantCore, rng: np.random.Generator, windows: int) -> tuple[float, float]:
    """CPU seconds for an instance that is kept: of scoring, and of decoding and coding what is said for it."""
    size = core.settings.window_instances
    asked = [Window(window=i, attempt=1, epoch=2, progress=0.5, ids=rng.permutation(N)[:size]) for i in range(windows)]
    answers: list[Selection] = []

    def score() -> None:
        for window in asked:
            core.receive(window)
            answers.extend(one for one in core.work() if isinstance(one, Selection))

    score_s = _cpu_s(score)
    frames = [encode(Envelope(seq=1, span=1, ack=0, message=window)) for window in asked]
    envelopes = [Envelope(seq=1, span=1, ack=0, message=answer) for answer in answers]
    code_s = _cpu_s(lambda: ([decode(one) for one in frames], [encode(one) for one in envelopes]))
    kept = sum(len(answer.kept_ids) for answer in answers)
    return score_s / kept, code_s / kept


def _decode_s(batches: list[I64], losses: F32) -> float:
    """CPU seconds for decoding a record."""
    frames = [encode(Envelope(seq=1, span=1, ack=0, message=_record(0, ids, losses))) for ids in batches]
    return _cpu_s(lambda: [decode(one) for one in frames]) / len(frames)
