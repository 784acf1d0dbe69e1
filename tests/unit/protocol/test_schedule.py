"""Where the warm-up ends and the anneal begins, by windows of any size."""

from __future__ import annotations

import pytest

from protocol.schedule import phase_of
from protocol.settings import RunSettings


def phases(n: int, window: int, epochs: int, **settings: float) -> dict[str, int]:
    """Instances of each phase in a run of which every window is offered once."""
    run, windows = RunSettings(epochs=epochs, window_size=window, **settings), -(-n // window)  # type: ignore[arg-type]
    found = {"warmup": 0, "": 0, "anneal": 0}
    for number in range(epochs * windows):
        epoch, in_epoch = divmod(number, windows)
        phase = phase_of(run, n, epoch, (number + 1) / (epochs * windows))
        found[phase] += min(window, n - in_epoch * window)
    return found


@pytest.mark.parametrize(
    ("n", "window", "warmup"),
    [(600, 256, 256), (1442, 256, 512), (1024, 256, 256), (60_000, 256, 15_104), (100, 256, 100)],
)
def test_a_window_that_begins_in_the_warm_up_is_of_it(n: int, window: int, warmup: int) -> None:
    """A quarter of an epoch was asked for: that much passes at least, and no whole window more."""
    found = phases(n, window, 4, warmup_epochs=0.25, anneal_share=0.125)
    assert found["warmup"] == warmup and 0.25 * n <= warmup < 0.25 * n + window


@pytest.mark.parametrize(("n", "window", "epochs"), [(600, 256, 10), (600, 256, 4), (1442, 256, 3), (60_000, 256, 5)])
def test_the_anneal_is_an_eighth_of_the_run_though_an_epoch_s_last_window_is_short(
    n: int, window: int, epochs: int
) -> None:
    anneal = phases(n, window, epochs, warmup_epochs=0.25, anneal_share=0.125)["anneal"]
    assert 0.125 * n * epochs <= anneal < 0.125 * n * epochs + window


def test_a_warm_up_of_whole_epochs_is_these_epochs() -> None:
    assert phases(600, 256, 4, warmup_epochs=1, anneal_share=0.0) == {"warmup": 600, "": 1800, "anneal": 0}


def test_without_either_all_may_be_filtered() -> None:
    assert phases(600, 256, 4, warmup_epochs=0, anneal_share=0.0) == {"warmup": 0, "": 2400, "anneal": 0}
