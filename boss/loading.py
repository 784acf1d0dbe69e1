"""DataLoaders over a feed's batches: their arguments checked, their workers kept where they are to persist."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from protocol.errors import FeedMisuse

OWN_TO_THE_FEED = ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")


def require_fit(dataset: Any, n: int, arguments: dict[str, Any]) -> None:
    """Raise FeedMisuse where a loader of this data set would give other batches than the feed's."""
    for name in OWN_TO_THE_FEED:
        if name in arguments:
            raise FeedMisuse(f"feed.loader: {name} is the feed's own to decide; leave it out")
    if arguments.get("in_order") is False:
        raise FeedMisuse("feed.loader: in_order=False would pair losses with other IDs; leave it out")
    if isinstance(dataset, IterableDataset):
        raise FeedMisuse("feed.loader: an IterableDataset cannot be asked for instance i; give one with __getitem__")
    if hasattr(dataset, "__len__") and len(dataset) != n:
        raise FeedMisuse(f"feed.loader: the data set has {len(dataset)} instances, the run {n}; pass the same")


class Loaders:
    """Makes the DataLoader of each epoch, or gives the one before again where its workers persist."""

    def __init__(self) -> None:
        self._kept: DataLoader[Any] | None = None
        self._made_of: tuple[Any, dict[str, Any]] | None = None

    def over(
        self, dataset: Any, batches: Iterable[list[int]], arguments: dict[str, Any], seed: tuple[int, ...]
    ) -> DataLoader[Any]:
        """A loader of ``batches``; ``seed`` is what its workers' random numbers come from, unless there is a generator.

        The generator is its own: an iterator that begins anew, as after a resume, must not move torch's random state.
        """
        is_same = self._made_of is not None and self._made_of[0] is dataset and self._made_of[1] == arguments
        if self._kept is not None and is_same:
            return self._kept
        self.close()
        mine = {"generator": seeded_generator(seed), **arguments}
        loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=batches, **mine)
        if loader.persistent_workers:
            self._kept, self._made_of = loader, (dataset, arguments)
        return loader

    def close(self) -> None:
        """End workers that persist."""
        self._kept = self._made_of = None


def seeded_generator(seed: tuple[int, ...]) -> torch.Generator:
    """Other random numbers for each ``seed``: of the run, the rank, the place in the run."""
    (state,) = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    return torch.Generator("cpu").manual_seed(int(state) >> 1)


def on_cpu() -> AbstractContextManager[object]:
    """Where the script's default device is another one; else nothing, for forked workers inherit it."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


class Batches:
    """A feed's batches as a DataLoader wants them."""

    def __init__(self, begin: Callable[[], Iterator[list[int]]], length: int) -> None:
        self._begin = begin
        self._length = length

    def __iter__(self) -> Iterator[list[int]]:
        return self._begin()

    def __len__(self) -> int:
        return self._length


class EpochLoader:
    """Gives the batches of the next epoch each time that it is iterated.

    It has no length: whoever trusted that of a complete epoch would wait for the end of a filtered one in vain.
    ``next`` goes on with an iteration of its own, for those who take it as an iterator.
    """

    def __init__(self, begin: Callable[[], Iterator[Any]]) -> None:
        self._begin = begin
        self._own: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self._begin()

    def __next__(self) -> Any:
        if self._own is None:
            self._own = self._begin()
        return next(self._own)
