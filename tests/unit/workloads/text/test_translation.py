"""The translation workload, on sixty made-up sentences: nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from assistant.boss_copy import BossCopy
from protocol.errors import WorkloadError
from workloads import load_workload, validate_workload
from workloads.base import FallBack
from workloads.snapshot_files import snapshot_content
from workloads.sources import SourceFailed
from workloads.text.pairs import TEST_SHARE, VALIDATION_SHARE, _place
from workloads.text.subwords import BEGIN, END, PAD, Sequences
from workloads.text.transformer import Transformer, smoothed_entropy, token_losses
from workloads.translation import Translation, small_corpus

VERBS = {"open": "öffne", "close": "schließe", "read": "lies", "write": "schreibe", "delete": "lösche"}
NOUNS = {"file": "Datei", "folder": "Mappe", "letter": "Nachricht", "list": "Liste"}
HOW = {"now": "jetzt", "at once": "sofort", "again please": "bitte noch einmal"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "made-up.tsv"
    lines = [f"{v} the {n} {h}\t{VERBS[v]} die {NOUNS[n]} {HOW[h]}\n" for v in VERBS for n in NOUNS for h in HOW]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def workload(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Translation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOASSIST_CACHE", str(tmp_path_factory.mktemp("kept")))
        made = load_workload("translation", data=pairs)
        assert isinstance(made, Translation)
        made.lengths()
    return made


def test_it_keeps_what_the_interface_promises(workload: Translation) -> None:
    validate_workload(workload)
    assert workload.fingerprint().dataset_id.startswith("made-up-train:")


def test_a_batch_has_the_source_with_its_end_and_the_target_shifted_by_one(workload: Translation) -> None:
    inputs, targets = workload.batch([3, 0])
    lengths = workload.lengths()[[3, 0]]
    assert inputs.shape == (2, 2, lengths.max()) and targets.shape == (2, lengths.max())
    for row, i in enumerate((3, 0)):
        source, begun, ended = inputs[row, 0], inputs[row, 1], targets[row]
        words = workload.subwords.decode([source[source != PAD].tolist()[:-1], ended[ended != PAD].tolist()[:-1]])
        assert tuple(words) == workload.corpus.train[i]
        assert source[source != PAD][-1] == END == ended[ended != PAD][-1] and begun[0] == BEGIN
        assert torch.equal(begun[begun != PAD][1:], ended[ended != PAD][:-1])


def test_lengths_are_those_of_the_longer_side_in_a_batch_alone(workload: Translation) -> None:
    lengths = workload.lengths()
    assert [workload.batch([i])[1].shape[1] for i in range(5)] == lengths[:5].tolist()


def test_token_counts_are_the_target_tokens(workload: Translation) -> None:
    _, targets = workload.batch([0, 1, 2])
    assert workload.token_counts(targets).tolist() == [int((row != PAD).sum()) for row in targets]


def test_a_loss_is_the_mean_over_the_tokens_of_its_own_instance(workload: Translation) -> None:
    boss = workload.boss().eval()
    ids = np.argsort(workload.lengths())[[0, -1]].tolist()
    inputs, targets = workload.batch(ids)
    together = workload.losses(boss(inputs), targets)
    alone = []
    for i in ids:
        one_inputs, one_targets = workload.batch([i])
        alone.append(workload.losses(boss(one_inputs), one_targets)[0])
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)


def test_losses_are_the_same_where_padding_is_computed_too(workload: Translation) -> None:
    """As on a GPU."""
    boss = workload.boss().eval()
    inputs, targets = workload.batch([0, 1, 2, 3])
    packed = boss(inputs)
    padded = torch.zeros(*targets.shape, packed.shape[1])
    padded[targets != PAD] = packed
    assert torch.allclose(workload.losses(packed, targets), workload.losses(padded, targets), atol=1e-6)


def test_it_learns_sentences_by_heart_and_translates_them_by_the_averaged_weights(workload: Translation) -> None:
    from workloads.text.decoding import Search, translate_texts

    torch.manual_seed(1)
    boss = workload.boss()
    optimizer = workload.optimizer(boss)
    ids = list(range(12))
    for _ in range(60):
        inputs, targets = workload.batch(ids)
        optimizer.zero_grad()
        workload.losses(boss(inputs), targets).mean().backward()
        optimizer.step()
    with torch.no_grad():
        boss.embedding.weight.zero_()  # only the average knows anything now
    texts = [workload.corpus.train[i][0] for i in ids]
    found = translate_texts(boss, workload.subwords, texts, Search(beam=2))
    assert sum(a == workload.corpus.train[i][1] for i, a in zip(ids, found, strict=True)) >= 10


def test_evaluation_gives_bleu_of_the_part_that_is_asked_for(pairs: Path, workload: Translation) -> None:
    assert workload.evaluate(workload.boss().eval(), torch.device("cpu")).name == "test_bleu"
    tuned = load_workload("translation", data=pairs, validation=True)
    assert tuned.evaluate(tuned.boss().eval(), torch.device("cpu")).name == "validation_bleu"


def test_few_pairs_that_all_hash_into_the_training_part_are_evaluated_and_scored(tmp_path: Path) -> None:
    """Else the run ends in an error after its first epoch."""
    from workloads.text.decoding import Search

    sources = [f"{verb} the {noun} {number}" for verb in VERBS for noun in NOUNS for number in ("one", "two", "three")]
    above = [source for source in sources if _place(source) >= TEST_SHARE + VALIDATION_SHARE][:50]
    (tmp_path / "few.tsv").write_text("".join(f"{source}\t{source[::-1]}\n" for source in above))
    few = load_workload("translation", data=tmp_path / "few.tsv")
    assert isinstance(few, Translation) and len(few.corpus.train) == 48
    boss = few.boss().eval()
    assert np.isfinite(few.evaluate(boss, torch.device("cpu")).value)
    scores = few.scores(boss, Search(beam=1), "cpu")
    assert all(np.isfinite(scores[name]) for name in ("bleu", "test_loss", "validation_loss"))


def test_what_a_person_sees_of_an_instance_is_the_pair(workload: Translation) -> None:
    source, target = workload.corpus.train[5]
    assert workload.preview(5) == f"{source}\n→ {target}"


def test_an_unknown_model_is_refused_with_those_there_are() -> None:
    with pytest.raises(WorkloadError, match="model 'huge' is unknown; use tiny, small, base"):
        Translation(model="huge")


def test_where_nothing_serves_the_catalogues_a_packaged_set_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        name, keep = "nobody", False

        def fetch(self, archive: object) -> dict[str, bytes]:
            raise SourceFailed("no way out")

    monkeypatch.setattr(Translation, "sources", lambda self: [Nobody()])
    workload = Translation()
    assert workload.fall_back == FallBack("translation", "django-wagtail")
    assert workload.corpus.train == small_corpus().train and len(workload.corpus.train) == 1381


def test_padding_goes_behind_and_what_begins_and_ends_goes_where_it_belongs() -> None:
    sequences = Sequences.of([[7, 8, 9], [], [5]])
    ids = np.array([2, 0, 1])
    assert sequences.padded(ids, 4, last=END).tolist() == [[5, 3, 0, 0], [7, 8, 9, 3], [3, 0, 0, 0]]
    assert sequences.padded(ids, 4, first=BEGIN).tolist() == [[2, 5, 0, 0], [2, 7, 8, 9], [2, 0, 0, 0]]


def test_the_weights_alone_are_enough_to_translate(workload: Translation) -> None:
    from workloads.text.transformer import from_weights

    boss = workload.boss()
    model, subwords = from_weights(boss.state_dict(), "")
    assert isinstance(model, Transformer) and not model.training
    assert subwords.model == workload.subwords.model
    assert torch.equal(model.embedding.weight, boss.embedding.weight)


def test_the_loss_per_token_counts_every_token_alike_and_smooths_none(workload: Translation) -> None:
    boss = workload.boss()
    pairs = workload.corpus.train[:5]
    total = tokens = 0.0
    boss.eval()
    for i in range(5):
        inputs, targets = workload.batch([i])
        total += float(
            torch.nn.functional.cross_entropy(boss(inputs), targets[targets != PAD], reduction="sum").detach()
        )
        tokens += int((targets != PAD).sum())
    boss.train()
    assert workload.loss_per_token(boss, pairs) == pytest.approx(total / tokens, rel=1e-5)
    assert boss.training


def test_it_trains_in_deterministic_mode(workload: Translation) -> None:
    boss, (inputs, targets) = workload.boss(), workload.batch([0, 1, 2])
    torch.use_deterministic_algorithms(True)
    try:
        workload.losses(boss(inputs), targets).mean().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(weights.grad is not None for weights in boss.parameters())


def test_what_is_predicted_as_well_as_a_smoothed_target_allows_has_no_loss() -> None:
    """Else a selection by the loss sees little difference between what is known and what is not."""
    targets = torch.tensor([[5, 6, PAD], [7, 8, 9]])
    smoothed = torch.nn.functional.one_hot(targets, 50) * 0.9 + 0.1 / 50
    padded = token_losses(smoothed.log(), targets, smoothing=0.1)
    packed = token_losses(smoothed.log()[targets != PAD], targets, smoothing=0.1)
    assert padded.tolist() == pytest.approx([0.0, 0.0], abs=1e-6) == packed.tolist()
    worse = token_losses(torch.zeros(5, 50), targets, smoothing=0.1)
    assert worse.tolist() == pytest.approx([np.log(50) - smoothed_entropy(50, 0.1)] * 2)
    assert smoothed_entropy(50, 0.0) == 0.0


def test_the_average_is_in_the_state_that_a_checkpoint_holds(workload: Translation) -> None:
    boss, other = workload.boss(), workload.boss()
    optimizer = workload.optimizer(boss)
    inputs, targets = workload.batch([0, 1])
    for _ in range(3):
        workload.losses(boss(inputs), targets).mean().backward()
        optimizer.step()
    other.load_state_dict(boss.state_dict())
    assert other.average.updates == boss.average.updates == 3
    with other.average.in_place_of(other):
        assert not torch.equal(other.embedding.weight, boss.embedding.weight)
        averaged = other.embedding.weight.clone()
    with boss.average.in_place_of(boss):
        assert torch.equal(boss.embedding.weight, averaged)
    assert torch.equal(other.embedding.weight, boss.embedding.weight)


def evaluated(workload: Translation, losses: list[tuple[float, float]]) -> Transformer:
    """A Boss after so many evaluations, whose averaged weights are 1, 2, 3 …; at each of them the running average and
    the best ones' mean lose so much."""
    boss = workload.boss()
    assert isinstance(boss, Transformer)
    for number, pair in enumerate(losses, start=1):
        for buffer in boss.average.buffers():
            buffer.fill_(float(number))
        given = iter(pair)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Translation, "loss_per_token", lambda *_, given=given: next(given))
            workload.evaluate(boss, torch.device("cpu"))
    return boss


def test_the_mean_of_the_three_best_evaluations_translates_where_it_loses_less(workload: Translation) -> None:
    """Training goes on too long: the second, third and fourth of five evaluations are the best ones."""
    from workloads.text.decoding import averaged

    boss = evaluated(workload, [(3.0, 3.0), (2.0, 2.5), (1.0, 2.0), (1.5, 1.2), (4.0, 1.1)])
    assert [loss for loss, _ in boss.best.kept] == [1.0, 1.5, 2.0]
    with averaged(boss) as model:
        assert model.embedding.weight.unique().tolist() == [3.0]
    assert boss.embedding.weight.unique().numel() > 1


def test_the_running_average_translates_where_the_mean_of_the_best_loses_more(workload: Translation) -> None:
    from workloads.text.decoding import averaged

    boss = evaluated(workload, [(3.0, 3.0), (2.0, 2.5), (1.0, 2.0)])
    with averaged(boss) as model:
        assert model.embedding.weight.unique().tolist() == [3.0]


def test_the_best_evaluations_are_in_the_state_that_a_checkpoint_holds(workload: Translation, tmp_path: Path) -> None:
    boss, other = evaluated(workload, [(1.0, 1.0), (2.0, 1.5)]), workload.boss()
    assert isinstance(other, Transformer)
    torch.save(boss.state_dict(), tmp_path / "boss.pt")
    other.load_state_dict(torch.load(tmp_path / "boss.pt", weights_only=True))
    assert other.best.judged_by == workload.corpus.held_out_digest()
    assert other.best.is_chosen and [loss for loss, _ in other.best.kept] == [1.0, 2.0]
    with boss.best.in_place_of(boss), other.best.in_place_of(other):
        assert torch.equal(boss.embedding.weight, other.embedding.weight)


def test_weights_that_do_not_say_by_what_they_were_judged_are_read(workload: Translation) -> None:
    boss = evaluated(workload, [(1.0, 1.0)])
    state = boss.best.get_extra_state()
    del state["judged_by"]
    boss.best.set_extra_state(state)
    assert boss.best.judged_by == "" and [loss for loss, _ in boss.best.kept] == [1.0]


def test_an_assistant_can_look_ahead_with_the_boss_of_a_snapshot(workload: Translation, tmp_path: Path) -> None:
    """Its running averages keep more than tensors, which a snapshot leaves out."""
    weights = {name: value for name, value in workload.boss().state_dict().items() if isinstance(value, torch.Tensor)}
    torch.save(snapshot_content(5, weights), tmp_path / "snapshot.pt")
    ahead = BossCopy(workload, tmp_path / "snapshot.pt")
    assert ahead.refresh() and ahead.step == 5
    losses = ahead.losses(np.arange(8))
    assert losses.shape == (8,) and np.isfinite(losses).all()
