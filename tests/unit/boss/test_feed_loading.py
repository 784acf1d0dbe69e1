"""Losses keep their instances however batches are loaded: by workers, ahead of need, again after an early break."""

from __future__ import annotations

import atexit
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from boss.feed import Feed
from boss.line import LocalSettings
from boss.loading import seeded_generator
from broker.store import RunStore
from protocol.errors import FeedMisuse

N = 300
Loaded = tuple[torch.Tensor, torch.Tensor]
WORKERS: dict[str, Any] = {"num_workers": 2, "prefetch_factor": 2}


class Instances(torch.utils.data.Dataset[Loaded]):
    """Instance i is (i, where it was loaded)."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Loaded:
        return torch.tensor(float(i)), torch.tensor([os.getpid(), int(torch.randint(1 << 40, ()))])


class Cpu(Instances):
    """The same, whatever the default device is."""

    def __getitem__(self, i: int) -> Loaded:
        with torch.device("cpu"):
            return super().__getitem__(i)


def connect(address: str, **settings: Any) -> Feed:
    waits = LocalSettings(on_broker_loss="wait")  # on a busy machine it would draw batches of its own
    wanted: dict[str, Any] = {
        "batch_size": 16,
        "epochs": 2,
        "policy": "uniform",
        "local": waits,
        "prefetch_batches": 9,
        **settings,
    }
    return Feed.connect(address, dataset=Instances(), **wanted)


def losses_of(x: torch.Tensor) -> torch.Tensor:
    return x * 0.01


def assert_each_loss_has_its_instance(run_dir: Path, epochs: int) -> None:
    """Every instance was trained once an epoch, and its loss is the one that was computed for it."""
    store = RunStore(run_dir, writable=False)
    records = list(store.loss_records())
    store.close()
    for record in records:
        assert record.losses == pytest.approx(record.ids * 0.01)
    assert sorted(i for record in records for i in record.ids) == sorted(list(range(N)) * epochs)


def plain(feed: Feed) -> Iterator[Loaded]:
    return iter(feed.loader(Instances()))


def in_workers(feed: Feed) -> Iterator[Loaded]:
    return iter(feed.loader(Instances(), **WORKERS))


DATASET = Instances()


def in_workers_that_persist(feed: Feed) -> Iterator[Loaded]:
    return iter(feed.loader(DATASET, persistent_workers=True, **WORKERS))


def pinned(feed: Feed) -> Iterator[Loaded]:
    return iter(feed.loader(Instances(), pin_memory=True, **WORKERS))


def by_batch_sampler(feed: Feed) -> Iterator[Loaded]:
    return iter(DataLoader(Instances(), batch_sampler=feed))


def by_batch_sampler_in_workers(feed: Feed) -> Iterator[Loaded]:
    return iter(DataLoader(Instances(), batch_sampler=feed, **WORKERS))


WAYS = [plain, in_workers, in_workers_that_persist, pinned, by_batch_sampler, by_batch_sampler_in_workers]
BATCH_SAMPLERS = [by_batch_sampler, by_batch_sampler_in_workers]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")  # no accelerator here
def test_losses_keep_their_instance_through_early_breaks_and_epochs(
    address: str, tmp_path: Path, way: Callable[[Feed], Iterator[Loaded]]
) -> None:
    """What workers had fetched ahead when the script broke off comes again, before the epoch ends and never after."""
    trained = []
    with connect(address) as feed:
        for breaks_after in (5, 12, N, 19, N):
            before = feed.steps
            for number, (x, _) in enumerate(way(feed)):
                if number == breaks_after:
                    break
                feed.report(losses_of(x))
            trained.append(feed.steps - before)
        assert feed.ended == "finished"
    assert trained == [5, 12, 1, 19, 1], "18 steps in the first epoch; its remainder makes it 20 in the second"
    assert_each_loss_has_its_instance(tmp_path, 2)


def test_workers_that_persist_are_the_same_in_each_epoch_and_end_with_the_feed(address: str) -> None:
    epochs: list[set[int]] = []
    with connect(address) as feed:
        for _ in range(2):
            epochs.append(set())
            for x, origins in in_workers_that_persist(feed):
                feed.report(losses_of(x))
                epochs[-1] |= set(origins[:, 0].tolist())
        assert all(psutil.pid_exists(pid) for pid in epochs[0])
    assert epochs[0] == epochs[1] and len(epochs[0]) == 2
    assert not any(psutil.pid_exists(pid) for pid in epochs[0])


def test_workers_draw_other_random_numbers_in_each_epoch(address: str) -> None:
    """Or an augmentation would repeat itself, whatever the epoch."""
    drawn: list[int] = []
    with connect(address) as feed:
        for _ in range(2):
            for x, origins in feed.loader(Instances(), num_workers=1):
                feed.report(losses_of(x))
                drawn += origins[:, 1].tolist()
    assert len(set(drawn)) == len(drawn) == 2 * N


def test_workers_of_another_rank_draw_other_random_numbers() -> None:
    assert seeded_generator((1, 0, 5)).initial_seed() != seeded_generator((1, 1, 5)).initial_seed()
    assert seeded_generator((1, 0, 5)).initial_seed() == seeded_generator((1, 0, 5)).initial_seed()


@pytest.mark.parametrize("way", [plain, in_workers], ids=lambda way: way.__name__)
def test_a_second_report_is_found_at_once_though_workers_have_fetched_ahead(
    address: str, way: Callable[[Feed], Iterator[Loaded]]
) -> None:
    with connect(address) as feed:
        x, _ = next(way(feed))
        feed.report(losses_of(x))
        with pytest.raises(FeedMisuse, match="exactly once"):
            feed.report(losses_of(x))
        with pytest.raises(FeedMisuse, match="exactly once"):
            feed.skip()


@pytest.mark.parametrize("way", BATCH_SAMPLERS, ids=lambda way: way.__name__)
def test_a_missing_report_is_found_where_the_feed_is_a_batch_sampler(
    address: str, way: Callable[[Feed], Iterator[Loaded]]
) -> None:
    with connect(address) as feed:
        with pytest.raises(FeedMisuse, match=r"wait for losses: .* feed\.skip"):
            for number, (x, _) in enumerate(way(feed)):
                if number != 3:
                    feed.report(losses_of(x))
        assert number == 3


def test_a_report_that_is_missing_at_the_end_of_an_epoch_is_found(address: str) -> None:
    with connect(address) as feed, pytest.raises(FeedMisuse, match=r"feed\.skip"):
        for x, _ in plain(feed):
            if feed.steps < N // 16 - 1:
                feed.report(losses_of(x))


def test_a_script_that_never_reports_is_told_so(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boss.pairing.MOST_AHEAD", 10)
    with connect(address) as feed, pytest.raises(FeedMisuse, match="11 batches wait for losses"):
        for _ in by_batch_sampler(feed):
            pass


def test_a_script_that_reports_nothing_of_a_whole_epoch_is_told_so_once(address: str) -> None:
    """It would get the same epoch again and again. Once, for a notebook whose cell is mended must go on."""
    with connect(address, epochs=1) as feed:
        assert len(list(by_batch_sampler(feed))) == 19
        with pytest.raises(FeedMisuse, match=r"19 batches, a whole epoch, wait for losses: .* feed\.skip"):
            next(by_batch_sampler(feed))
        for x, _ in by_batch_sampler(feed):
            feed.report(losses_of(x))
        assert feed.ended == "finished"


def test_who_collects_a_whole_epoch_and_then_reports_it_has_reported_it(address: str) -> None:
    with connect(address) as feed:
        for _ in range(2):
            for x, _ in list(by_batch_sampler(feed)):
                feed.report(losses_of(x))
        assert feed.ended == "finished"


@pytest.mark.parametrize("way", BATCH_SAMPLERS, ids=lambda way: way.__name__)
def test_who_only_looks_at_a_batch_of_a_short_epoch_may_do_so_again(
    address: str, way: Callable[[Feed], Iterator[Loaded]]
) -> None:
    """Workers have fetched the three batches and met the epoch's end before the script has the first."""
    with connect(address, batch_size=100, epochs=1, prefetch_batches=4) as feed:
        for _ in range(3):
            assert len(next(way(feed))[0]) == 100
        for x, _ in way(feed):
            feed.report(losses_of(x))
        assert feed.ended == "finished"


def test_a_stopped_run_that_has_reported_nothing_gives_nothing_more(address: str) -> None:
    with connect(address) as feed:
        first = next(iter(feed))
        feed.stop()
        assert list(feed) == [first], "which was never reported"
        assert list(feed) == list(feed) == []


class Broken(Instances):
    """One instance cannot be read, as long as that is so."""

    is_broken = True

    def __getitem__(self, i: int) -> Loaded:
        if i == 7 and self.is_broken:
            raise OSError("instance 7 cannot be read")
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [{}, WORKERS], ids=["plain", "in_workers"])
def test_a_batch_whose_data_set_raised_is_said_to_be_undelivered_and_comes_again(
    address: str, tmp_path: Path, workers: dict[str, Any]
) -> None:
    data = Broken()
    with connect(address, epochs=1) as feed:
        with pytest.raises(OSError, match="instance 7"):
            for x, _ in feed.loader(data, **workers):
                feed.report(losses_of(x))
        for report in (feed.skip, lambda: feed.report(torch.zeros(16))):
            with pytest.raises(FeedMisuse, match=r"never delivered, .* the same batch comes first"):
                report()
        data.is_broken = False
        loaded = iter(feed.loader(data, **workers))
        first, _ = next(loaded)
        assert 7.0 in first
        feed.report(losses_of(first))
        for x, _ in loaded:
            feed.report(losses_of(x))
    assert_each_loss_has_its_instance(tmp_path, 1)


def test_a_report_after_the_last_batch_of_an_epoch_is_one_too_many(address: str) -> None:
    with connect(address) as feed:
        for x, _ in plain(feed):
            feed.report(losses_of(x))
        with pytest.raises(FeedMisuse, match="exactly once"):
            feed.report(losses_of(x))


def test_batches_may_be_taken_in_twos_and_reported_in_their_order(address: str, tmp_path: Path) -> None:
    with connect(address, epochs=1) as feed:
        batches = by_batch_sampler(feed)
        for first, _ in batches:
            pair = [first, *(x for x, _ in itertools.islice(batches, 1))]
            for x in pair:
                feed.report(losses_of(x))
    assert_each_loss_has_its_instance(tmp_path, 1)


def test_whoever_looks_one_batch_ahead_says_so_and_a_missing_report_is_still_found(
    address: str, tmp_path: Path
) -> None:
    """As Lightning does, to know which batch is the last."""
    with connect(address) as feed:
        loader = feed.loader(Instances(), lookahead=1)
        for x, _ in ahead(iter(loader)):
            feed.report(losses_of(x))
        batches = ahead(iter(loader))
        next(batches)
        with pytest.raises(FeedMisuse, match=r"feed\.skip"):
            next(batches)
        with pytest.raises(FeedMisuse, match=r"feed\.skip"):
            next(ahead(iter(feed.loader(Instances()))))


def test_a_loader_is_iterated_again_for_the_next_epoch_and_has_no_length_to_be_trusted(
    address: str, tmp_path: Path
) -> None:
    with connect(address) as feed:
        loader = feed.loader(Instances())
        with pytest.raises(TypeError):
            len(loader)  # type: ignore[arg-type]
        for _ in range(2):
            next(iter(loader))  # taken by somebody who begins anew, as Lightning does to try it
            for x, _ in loader:
                feed.report(losses_of(x))
        assert feed.ended == "finished"
    assert_each_loss_has_its_instance(tmp_path, 2)


def ahead(batches: Iterator[Loaded]) -> Iterator[Loaded]:
    """Each batch once the next has been taken."""
    held = next(batches)
    for batch in batches:
        yield held
        held = batch
    yield held


def test_a_data_set_without_instances_by_number_is_explained(address: str) -> None:
    class Lines(torch.utils.data.IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            yield 1

    with connect(address) as feed, pytest.raises(FeedMisuse, match="__getitem__"):
        feed.loader(Lines())


def test_a_checkpoint_near_the_end_of_an_epoch_knows_that_the_epoch_is_not_over(address: str) -> None:
    """Workers have fetched what is left of it, and its end, and the script has not trained it."""
    first = connect(address)
    for x, _ in in_workers(first):
        first.report(losses_of(x))
        if first.steps == 15:
            assert first.cut()
            state = first.state_dict()
            break
    atexit.unregister(first._close_at_exit)
    first._line.leave()
    with connect(address) as feed:
        feed.load_state_dict(state)
        epochs = []
        while not feed.ended:
            epochs.append([int(i) for x, _ in plain(feed) for i in (x, feed.report(losses_of(x)))[0]])
    assert [len(ids) for ids in epochs[:2]] == [N // 16 * 16 - 15 * 16, N + N % 16]


def test_a_script_whose_default_device_is_another_one_loads_as_ever(address: str) -> None:
    """As ``torch.set_default_device("cuda")`` has it: what draws the seed of the workers would lie there."""
    with connect(address, epochs=1) as feed, torch.device("meta"):
        taken = 0
        for x, _ in feed.loader(Cpu()):
            feed.report(losses_of(x).requires_grad_())
            taken += len(x)
    assert taken == N
