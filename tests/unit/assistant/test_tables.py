"""What is remembered of very many instances lies in mapped files; a restart finds it as at the checkpoint."""

from __future__ import annotations

import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from assistant.checkpoint import AssistantCheckpoint, read_checkpoint
from assistant.policies import Guarded, make_policy
from assistant.tables import MAP_FROM, Tables
from protocol.errors import DataError
from protocol.settings import RunSettings
from tests.unit.assistant.streams import MIDDLE, record

N = 400
MANY = 10**8
POLICIES = ["autoassist", "infobatch", "selective-backprop", "importance"]


def policy_on(tables: Tables, name: str = "autoassist", n: int = N) -> Guarded:
    return make_policy(RunSettings(policy=name, noise_guard="on"), n, tables=tables)


def feed(policy: Guarded, positions: range) -> None:
    for position in positions:
        rng = np.random.default_rng(position)
        ids = rng.integers(0, N, 32)  # some of them twice, as where two epochs meet
        policy.observe(record(position, ids, rng.exponential(size=32) * (1 + ids % 5), position // 10))


def known(policy: Guarded) -> np.ndarray:
    """All that comes out of a policy."""
    keep = policy.keep_probability(np.arange(N), MIDDLE)
    return np.concatenate([keep, policy.set_aside])


@pytest.fixture
def sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files take no room on the disk until they are written."""
    monkeypatch.setattr("assistant.tables.os.posix_fallocate", lambda *_: None)


def saved(tables: Tables, policy: Guarded, path: Path) -> None:
    mark = tables.prepare()
    AssistantCheckpoint("run/0", 0, 0, policy.state_dict(), mark).write(path)
    tables.commit()


def restored(stem: Path, path: Path, name: str = "autoassist") -> tuple[Tables, Guarded]:
    """As a process does that was started anew."""
    tables, found = Tables(stem, map_from=0), read_checkpoint(path)
    assert found is not None
    policy = policy_on(tables, name)
    policy.load_state_dict(found.policy)
    tables.go_back(found.mark)
    return tables, policy


@pytest.mark.parametrize("name", POLICIES)
def test_mapped_or_not_a_policy_says_the_same(tmp_path: Path, name: str) -> None:
    mapped, plain = policy_on(Tables(tmp_path / "a", map_from=0), name), policy_on(Tables(), name)
    for policy in (mapped, plain):
        feed(policy, range(30))
    assert np.array_equal(known(mapped), known(plain))
    assert any(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", POLICIES)
def test_a_killed_assistant_s_tables_are_as_at_its_last_checkpoint_and_go_on_from_there(
    tmp_path: Path, name: str
) -> None:
    tables = Tables(tmp_path / "a", map_from=0)
    policy, path = policy_on(tables, name), tmp_path / "a.npz"
    tables.begin()
    for begin in (0, 20):
        feed(policy, range(begin, begin + 20))
        saved(tables, policy, path)
    at_the_checkpoint = known(policy)
    feed(policy, range(40, 70))
    later = known(policy)
    assert not np.array_equal(later, at_the_checkpoint)
    tables.close()  # and nothing else: what a kill does
    for _ in range(2):
        tables, again = restored(tmp_path / "a", path, name)
        assert np.array_equal(known(again), at_the_checkpoint)
        feed(again, range(40, 70))
        assert np.array_equal(known(again), later)
        tables.close()


def test_of_an_entry_that_was_not_written_whole_nothing_is_put_back_and_more_can_follow(tmp_path: Path) -> None:
    """Killed within a write to the journal, before the table changed; then killed again."""
    tables, path = Tables(tmp_path / "a", map_from=0), tmp_path / "a.npz"
    policy = policy_on(tables)
    feed(policy, range(20))
    saved(tables, policy, path)
    expected = known(policy)
    feed(policy, range(20, 24))
    tables.close()
    (journal,) = tmp_path.glob("a.undo-*")
    whole = journal.read_bytes()
    for torn in (1, 11, 40):
        journal.write_bytes(whole + whole[:torn])
        tables, again = restored(tmp_path / "a", path)
        assert np.array_equal(known(again), expected)
        assert journal.read_bytes() == whole
        feed(again, range(20, 24))
        tables.close()
        tables, again = restored(tmp_path / "a", path)
        assert np.array_equal(known(again), expected)
        tables.close()
        journal.write_bytes(whole)


@pytest.mark.parametrize("replaced", [False, True])
def test_killed_while_a_checkpoint_is_written_the_one_that_is_there_counts(tmp_path: Path, replaced: bool) -> None:
    tables, path = Tables(tmp_path / "a", map_from=0), tmp_path / "a.npz"
    policy = policy_on(tables)
    feed(policy, range(20))
    saved(tables, policy, path)
    expected = known(policy)
    feed(policy, range(20, 40))
    mark = tables.prepare()
    if replaced:
        AssistantCheckpoint("run/0", 0, 0, policy.state_dict(), mark).write(path)
        expected = known(policy)
    tables.close()
    _, again = restored(tmp_path / "a", path)
    assert np.array_equal(known(again), expected)
    assert len(list(tmp_path.glob("a.undo-*"))) == 1


def test_a_checkpoint_that_cannot_be_written_leaves_no_file_of_its_own_behind(tmp_path: Path) -> None:
    tables, path = Tables(tmp_path / "a", map_from=0), tmp_path / "a.npz"
    saved(tables, policy_on(tables), path)
    for _ in range(3):
        tables.prepare()
    assert len(list(tmp_path.glob("a.undo-*"))) == 2, "of the last checkpoint, and of the one that is being written"


def test_a_checkpoint_whose_tables_are_gone_or_of_another_run_is_refused(tmp_path: Path) -> None:
    tables, path = Tables(tmp_path / "a", map_from=0), tmp_path / "a.npz"
    policy = policy_on(tables)
    saved(tables, policy, path)
    feed(policy, range(10))
    tables.begin()
    tables.close()
    with pytest.raises(ValueError, match="tables are not there"):
        restored(tmp_path / "a", path)


def test_tables_of_another_run_begin_empty(tmp_path: Path) -> None:
    tables = Tables(tmp_path / "a", map_from=0)
    table = tables.make("instances", N, 2, np.float32)
    table.put(np.arange(5), np.ones((5, 2), dtype=np.float32))
    tables.close()
    tables = Tables(tmp_path / "a", map_from=0)
    table = tables.make("instances", N, 2, np.float32)
    assert table.rows.sum() == 10.0
    tables.begin()
    assert table.rows.sum() == 0.0


def test_where_the_journal_cannot_be_written_training_goes_on_and_the_checkpoint_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tables, path = Tables(tmp_path / "a", map_from=0), tmp_path / "a.npz"
    policy, plain = policy_on(tables), policy_on(Tables())
    saved(tables, policy, path)
    monkeypatch.setattr("assistant.journal.os.write", lambda file, data: len(data) // 2)
    for either in (policy, plain):
        feed(either, range(10))
    monkeypatch.undo()
    assert np.array_equal(known(policy), known(plain))
    assert caplog.text.count("no space left") == 1
    tables.close()
    with pytest.raises(ValueError, match="tables are not there"):
        restored(tmp_path / "a", path)


def test_a_second_process_of_the_same_name_leaves_the_first_one_s_files_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Tables(tmp_path / "a", map_from=0), Tables(tmp_path / "a", map_from=0)
    one, other = policy_on(first), policy_on(second)
    feed(one, range(10))
    expected = known(one)
    second.begin()
    feed(other, range(30))
    assert np.array_equal(known(one), expected)
    assert "in use by another process" in caplog.text
    assert first.can_be_kept and not second.can_be_kept
    second.close()
    first.close()
    third = Tables(tmp_path / "a", map_from=0)
    policy_on(third)
    assert third.can_be_kept


def test_without_a_state_directory_a_mapped_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tables = Tables(map_from=0)
    feed(policy_on(tables), range(3))
    assert list(tmp_path.iterdir()) == [] and not tables.can_be_kept
    tables.close()


def test_without_room_on_the_disk_memory_has_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    tables = Tables(tmp_path / "a", map_from=0)
    there = tables.make("there", N, 2, np.float32)
    monkeypatch.setattr("assistant.tables.os.posix_fallocate", full)
    with caplog.at_level(logging.WARNING):
        table = tables.make("instances", N, 2, np.float32)
    assert table.file < 0 <= there.file and "held in memory" in caplog.text
    with pytest.raises(DataError, match="no room for the instances' history"):
        tables.begin()


@pytest.mark.usefixtures("sparse")
def test_a_hundred_million_instances_cost_16_bytes_each_on_disk_and_none_in_memory(tmp_path: Path) -> None:
    feed(policy_on(Tables(tmp_path / "warm")), range(25))
    tracemalloc.start()
    tables = Tables(tmp_path / "a")
    policy = policy_on(tables, n=MANY)
    tables.begin()
    feed(policy, range(25))
    windows = np.random.default_rng(0).integers(0, MANY, (8, 256))
    assert all(len(policy.keep_probability(ids, MIDDLE)) == 256 for ids in windows)
    state = policy.state_dict()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 16 * MANY
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir()) < 100e6
    assert peak < 3e6, f"{peak} bytes"
    assert sum(values.nbytes for values in state.values()) < 200e3
    tables.close()


def test_few_instances_are_held_in_memory(tmp_path: Path) -> None:
    policy_on(Tables(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == [] and N < MAP_FROM
