"""The three lines in a training script: what they give, and how they explain the usual mistakes."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from boss.feed import Feed
from boss.line import LocalSettings
from protocol.errors import FeedMisuse, PeerRefused, SettingError, TrainingDiverged
from protocol.report import read_report
from tests.processes.roles import roles, start_broker

N = 300


class Squares(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Instance i is (i, i²)."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(float(i)), torch.tensor(float(i * i))


def connect(address: str, **settings: Any) -> Feed:
    waits = LocalSettings(on_broker_loss="wait")  # on a busy machine it would draw batches of its own
    wanted: dict[str, Any] = {"batch_size": 16, "epochs": 2, "policy": "uniform", "local": waits, **settings}
    return Feed.connect(address, dataset=Squares(), **wanted)


def is_killed(feed: Feed) -> None:
    """As if its process were gone: no Goodbye, and nothing at the end of this one."""
    atexit.unregister(feed._close_at_exit)
    feed._line.leave()


def losses_of(x: torch.Tensor) -> torch.Tensor:
    return x * 0.01 + torch.zeros_like(x, requires_grad=True)


def test_three_lines_train_every_instance_once_per_epoch(address: str, tmp_path: Path) -> None:
    seen: list[list[float]] = []
    with connect(address) as feed:
        for _ in range(2):
            seen.append([])
            for x, y in feed.loader(Squares()):
                assert torch.equal(y, x * x)
                loss = feed.report(losses_of(x))
                loss.backward()
                seen[-1] += x.tolist()
        feed.record_metric("fit", 0.25)
    assert sorted(seen[0] + seen[1]) == sorted(list(range(N)) * 2)
    assert len(set(seen[0])) == len(seen[0])
    report = read_report(tmp_path)
    assert (report.status, report.boss.instances, report.metric.value) == ("finished", 2 * N, 0.25)


def test_a_feed_is_a_batch_sampler(address: str) -> None:
    with connect(address, epochs=1) as feed:
        count = 0
        for x, _ in torch.utils.data.DataLoader(Squares(), batch_sampler=feed):
            feed.report(losses_of(x))
            count += len(x)
        assert count == N
        assert len(feed) == -(-N // 16)


def test_losses_keep_their_instance_through_loader_workers(address: str, tmp_path: Path) -> None:
    """Two workers fetch ahead; still each loss lands with the ID that made it."""
    with connect(address, epochs=1, prefetch_batches=9) as feed:
        for x, _ in feed.loader(Squares(), num_workers=2):
            feed.report(losses_of(x))
    from broker.store import RunStore

    store = RunStore(tmp_path, writable=False)
    for record in store.loss_records():
        assert record.losses == pytest.approx(record.ids * 0.01)
    store.close()


def test_after_an_early_break_the_unreported_come_first_again(address: str) -> None:
    with connect(address, epochs=1) as feed:
        first = []
        for number, (x, _) in enumerate(feed.loader(Squares())):
            if number == 3:
                lost = x.tolist()
                break
            feed.report(losses_of(x))
            first += x.tolist()
        rest = []
        for x, _ in feed.loader(Squares()):
            feed.report(losses_of(x))
            rest += x.tolist()
        assert rest[: len(lost)] == lost
        assert sorted(first + rest) == list(range(N))


def test_a_reduced_loss_is_explained(address: str) -> None:
    with connect(address) as feed:
        next(iter(feed))
        with pytest.raises(FeedMisuse, match='reduction="none"'):
            feed.report(torch.tensor(0.5))


def test_a_loss_of_another_length_is_explained(address: str) -> None:
    with connect(address) as feed:
        next(iter(feed))
        with pytest.raises(FeedMisuse, match=r"shape \(5,\), expected \(16,\)"):
            feed.report(torch.zeros(5))


def test_a_report_of_a_batch_that_is_not_the_feeds_is_explained(address: str) -> None:
    """The loader that the script had before, shuffle=True and all, was left in."""
    with connect(address) as feed:
        x, _ = next(iter(torch.utils.data.DataLoader(Squares(), batch_size=16, shuffle=True)))
        with pytest.raises(FeedMisuse, match=r"take them from feed\.loader\(train_set\)"):
            feed.report(losses_of(x))


def test_a_second_report_of_one_batch_is_explained(address: str) -> None:
    with connect(address) as feed:
        ids = next(iter(feed))
        feed.report(torch.zeros(len(ids)))
        with pytest.raises(FeedMisuse, match="exactly once"):
            feed.report(torch.zeros(len(ids)))


def test_a_forgotten_report_is_explained_and_skip_is_the_legal_way(address: str) -> None:
    with connect(address) as feed:
        batches = feed.loader(Squares())
        next(batches)
        with pytest.raises(FeedMisuse, match=r"feed\.skip"):
            next(batches)
        batches = feed.loader(Squares())
        next(batches)
        feed.skip()
        next(batches)


@pytest.mark.parametrize("argument", ["shuffle", "batch_size", "sampler", "drop_last"])
def test_what_the_feed_decides_cannot_be_given_to_the_loader(address: str, argument: str) -> None:
    with connect(address) as feed, pytest.raises(FeedMisuse, match=argument):
        next(feed.loader(Squares(), **{argument: True}))


def test_a_data_set_of_another_size_is_explained(address: str) -> None:
    with connect(address) as feed, pytest.raises(FeedMisuse, match="has 7 instances, the run 300"):
        next(feed.loader(range(7)))


def test_an_unknown_setting_is_explained(address: str) -> None:
    with pytest.raises(SettingError, match="batchsize"):
        connect(address, batchsize=3)


def test_a_batch_above_the_data_set_is_refused_by_the_broker(address: str) -> None:
    with pytest.raises(PeerRefused, match="batch_size=512"):
        connect(address, batch_size=512)


def test_a_script_goes_on_from_its_state_dict_without_a_hole_or_a_double(address: str) -> None:
    """As torchdata's loaders: connect, load_state_dict, iterate. The first process was killed after its checkpoint."""
    first = connect(address, epochs=1)
    seen: list[list[int]] = []
    for ids in first:
        seen.append(ids)
        first.report(torch.zeros(len(ids)))
        if len(seen) == 5:
            assert first.cut()
            state = first.state_dict()
        if len(seen) == 8:
            break
    is_killed(first)
    with connect(address, epochs=1) as feed:
        feed.load_state_dict(state)
        assert feed.steps == 5
        rest = []
        for ids in feed:
            feed.report(torch.zeros(len(ids)))
            rest.append(ids)
        assert rest[:3] == seen[5:8], "what came after the checkpoint comes again"
        assert sorted(i for ids in seen[:5] + rest for i in ids) == list(range(N))
        with pytest.raises(FeedMisuse, match="right after"):
            feed.load_state_dict(state)


def test_without_its_state_a_script_does_not_go_on_with_a_trained_run(address: str) -> None:
    first = connect(address)
    for ids in itertools.islice(first, 3):
        first.report(torch.zeros(len(ids)))
    is_killed(first)
    with connect(address) as feed, pytest.raises(PeerRefused, match=r"fresh weights|another process"):
        next(iter(feed))


def test_progress_rises_to_one(address: str) -> None:
    with connect(address) as feed:
        seen = []
        for _ in range(2):
            for ids in feed:
                seen.append(feed.progress)
                feed.report(torch.zeros(len(ids)))
        assert seen == sorted(seen) and seen[0] < 0.3 and seen[-1] == 1.0


def test_the_mean_of_losses_carries_the_gradient(address: str) -> None:
    with connect(address) as feed:
        ids = next(iter(feed))
        w = torch.ones(len(ids), requires_grad=True)
        feed.report(w * 2.0).backward()
        assert w.grad is not None
        assert w.grad.tolist() == pytest.approx([2.0 / 16] * 16)


def test_stop_ends_the_iteration_and_the_run(address: str, tmp_path: Path) -> None:
    with connect(address, epochs=50) as feed:
        for number, ids in enumerate(feed):
            feed.report(torch.zeros(len(ids)))
            if number == 5:
                feed.stop()
        assert feed.ended == "stopped"
        assert list(feed) == []
    assert read_report(tmp_path).status == "stopped"


@pytest.mark.parametrize("by", ["this script", "another role"])
def test_a_stopped_run_is_a_warning_only_to_who_has_not_stopped_it(
    address: str, caplog: pytest.LogCaptureFixture, by: str
) -> None:
    """A launcher repeats warnings after its summary, which says already that the run was stopped."""
    with caplog.at_level(logging.INFO, "autoassist.boss"), connect(address, epochs=50) as feed:
        for ids in feed:
            feed.report(torch.zeros(len(ids)))
            (feed.stop if by == "this script" else feed._line.stop)()
    said = [record.levelname for record in caplog.records if record.getMessage() == "the run is stopped"]
    assert said == ["INFO" if by == "this script" else "WARNING"]


def test_an_exception_in_the_loop_ends_the_run_as_failed(address: str, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), connect(address) as feed:
        next(iter(feed))
        raise ZeroDivisionError
    assert read_report(tmp_path).status == "failed"


def test_losses_that_are_not_finite_are_counted(address: str, tmp_path: Path) -> None:
    with connect(address, epochs=1) as feed:
        for ids in feed:
            losses = torch.zeros(len(ids))
            losses[0] = float("nan")
            feed.report(losses)
    report = read_report(tmp_path)
    assert report.loss_reports.values_not_finite == report.boss.steps


def test_a_feed_whose_broker_dies_before_the_last_acknowledgement_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boss.farewell.DRAIN_S", 0.5)
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path)
        feed = connect(address, epochs=1, local=LocalSettings())
        for number, (x, _) in enumerate(feed.loader(Squares())):
            if number == len(feed) - 2:
                os.kill(broker.process.pid, signal.SIGSTOP)
            feed.report(losses_of(x))
            if number == len(feed) - 1:
                break
        assert feed.close() is False
        broker.kill()


def test_a_feed_that_was_closed_in_order_has_had_everything_acknowledged(address: str) -> None:
    feed = connect(address, epochs=1)
    for x, _ in feed.loader(Squares()):
        feed.report(losses_of(x))
    assert feed.close() is True and feed.close() is True


def test_losses_that_are_not_finite_are_left_out_of_the_mean(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with connect(address, epochs=1) as feed:
        for x, _ in feed.loader(Squares()):
            losses = losses_of(x)
            bad = x == 7.0
            mean = feed.report(torch.where(bad, torch.tensor(float("inf")), losses))
            assert torch.isclose(mean, losses[~bad].mean())
    (warning,) = [r.getMessage() for r in caplog.records if "NaN or infinite" in r.getMessage()]
    assert "of instances 7;" in warning


def test_many_steps_without_a_finite_loss_end_the_training(address: str) -> None:
    with pytest.raises(TrainingDiverged, match="no loss was finite"), connect(address, epochs=9) as feed:
        for _ in range(9):
            for x, _ in feed.loader(Squares()):
                feed.report(losses_of(x) * float("nan"))


def test_skipped_batches_are_no_sign_of_a_network_that_has_diverged(address: str) -> None:
    with connect(address, epochs=4) as feed:
        for _ in range(4):
            for _ in feed:
                feed.skip()
        assert feed.ended == "finished" and not feed.has_diverged


def test_skipped_batches_count_as_trained(address: str) -> None:
    with connect(address, epochs=2) as feed:
        for _ in range(2):
            for _ in feed:
                feed.skip()
        assert feed.instances == 600
        assert feed.figures()["wall_s"] > 0.0


def test_a_script_that_fails_at_its_first_batch_has_trained_for_no_time_and_not_for_less(address: str) -> None:
    with connect(address) as feed:
        next(iter(feed))
        assert feed.figures()["wall_s"] == 0.0


def test_several_ranks_are_refused() -> None:
    with pytest.raises(SettingError, match="world_size=2"):
        connect("tcp://127.0.0.1:1", world_size=2)


def test_ranks_that_do_not_know_each_other_are_told_what_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would train alone, all instances of every batch."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(FeedMisuse, match=r"WORLD_SIZE=2: .* call torch\.distributed\.init_process_group\(\)"):
        connect("tcp://127.0.0.1:1")


def test_a_script_that_forgets_to_close_its_feed_loses_no_report(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch, autoassist\n"
        "data = torch.utils.data.TensorDataset(torch.arange(300.0))\n"
        "feed = autoassist.Feed.connect(sys.argv[1], dataset=data, batch_size=16, epochs=1)\n"
        "for (x,) in feed.loader(data):\n"
        "    feed.report(x)\n"
    )
    with roles() as start:
        broker, address, _ = start_broker(start, tmp_path / "run")
        done = subprocess.run(
            [sys.executable, script, address], check=False, timeout=90, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert broker.end() == 0, broker.text
    report = read_report(tmp_path / "run")
    assert (report.status, report.loss_reports.delivered) == ("finished", report.boss.steps)
    assert report.loss_reports.sent == report.loss_reports.delivered == 19
