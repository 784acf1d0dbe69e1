"""``autoassist doctor``: each thing that can be wrong is found, is named, and comes with what to do."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoassist.cli import main
from autoassist.doctor import connection, disk, host, installation
from autoassist.doctor.command import DoctorCommand, line, summary
from autoassist.doctor.finding import Finding, error, looked_at, note, ok, warning
from autoassist.keys_command import make_keys
from protocol.errors import DataError
from protocol.security import Key

ROOT = Path(__file__).resolve().parents[3]
GIB = 1 << 30


def levels(found: Iterator[Finding]) -> list[str]:
    """Of the findings; whoever is told of trouble is told what to do."""
    all_of_them = list(found)
    for finding in all_of_them:
        assert finding.remedy or finding.level in ("ok", "note"), finding
    return [finding.level for finding in all_of_them]


def of(found: Iterator[Finding]) -> Finding:
    """The worst."""
    order = ("ok", "note", "warning", "error")
    return max(found, key=lambda finding: order.index(finding.level))


def test_this_installation_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the suite itself needs it; what is in use or small here is a warning at most."""
    assert main(["doctor", "--run-dir", str(tmp_path / "runs"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["healthy"] is True and not (tmp_path / "runs").exists()
    looked = {finding["check"] for finding in said["findings"]}
    assert looked >= {"python", "packages", "extras", "transport", "torch", "device", "ports", "keys", "clock", "disk"}
    assert looked >= {"shared memory", "open files", "memory"}


def test_an_error_is_exit_code_1_and_stands_with_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [ok("python", "well"), error("keys", "gone", "make them"), warning("disk", "full", "free some")]
    monkeypatch.setattr(DoctorCommand, "findings", lambda self: iter(found))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "error   keys: gone\n        → make them\n" in said and "1 error and 1 warning;" in said
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["healthy"] is False


def test_a_warning_is_no_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(DoctorCommand, "findings", lambda self: iter([warning("disk", "full", "free some")]))
    assert main(["doctor"]) == 0 and "1 warning;" in capsys.readouterr().out
    assert summary([ok("a", "b"), note("c", "d")]) == "all is well"
    assert line(ok("a", "b")).plain == "ok      a: b"


def test_a_check_that_fails_itself_does_not_end_the_others() -> None:
    def broken() -> Iterator[Finding]:
        yield ok("x", "so far")
        raise ZeroDivisionError("oh")

    found = list(looked_at("x", broken))
    assert [f.level for f in found] == ["ok", "warning"] and "ZeroDivisionError: oh" in found[1].found

    def refused() -> Iterator[Finding]:
        raise DataError("cache: cannot be made; set AUTOASSIST_CACHE")
        yield

    (one,) = looked_at("x", refused)
    assert (one.level, one.found, one.remedy) == ("error", "cache: cannot be made", "set AUTOASSIST_CACHE")


def test_python_must_be_new_enough_and_of_64_bits() -> None:
    assert levels(installation.python((3, 11, 0), 64)) == ["ok"]
    assert levels(installation.python((3, 10, 9), 64)) == ["error"]
    assert levels(installation.python((3, 12, 1), 32)) == ["error"]


def test_packages_that_are_missing_or_old_are_named_with_what_installs_them() -> None:
    have = {"numpy": "1.20.3", "pyzmq": "27.0", "matplotlib": "3.9"}

    def version_of(name: str) -> str:
        if name not in have:
            raise metadata.PackageNotFoundError(name)
        return have[name]

    requires = ["numpy>=1.26", "pyzmq>=26", "msgspec>=0.19", "matplotlib>=3.8; extra == 'plot'"]
    requires += ['pyarrow>=15; extra == "parquet"', "pytest; extra == 'dev'"]
    found = list(installation.packages(requires, version_of))
    assert [f.level for f in found] == ["error", "error", "ok", "ok", "note"]
    assert "numpy 1.20.3 is older than 1.26" in found[0].found and found[0].remedy == "pip install 'numpy>=1.26'"
    assert "msgspec is not installed" in found[1].found
    assert "pip install 'autoassist[parquet]'" in found[-1].remedy and "plot" in found[3].found


def test_every_extra_of_the_project_is_told_of_and_none_that_is_not_there() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]) - {"dev"}
    requires = [f"nowhere>=1; extra == '{extra}'" for extra in extras]

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    told = {finding.found.partition(":")[0] for finding in installation.packages(requires, missing)}
    assert told - {""} == extras and set(installation.EXTRAS) <= extras | {"tensorboard"}


def test_a_transport_without_encryption_is_told() -> None:
    assert levels(installation.transport((4, 3, 5), True)) == ["ok"]
    assert levels(installation.transport((4, 3, 5), False)) == ["warning"]
    assert levels(installation.transport((4, 1, 0), True)) == ["error"]


def test_a_gpu_that_is_wanted_and_not_there_is_an_error_and_one_that_lies_idle_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert levels(installation.torch_and_device("cuda", gpu_is_here=False)) == ["ok", "error", "ok"]
    assert "--device cpu" in of(installation.torch_and_device("cuda", gpu_is_here=False)).remedy
    assert levels(installation.torch_and_device("auto", gpu_is_here=True)) == ["ok", "warning", "ok"]
    assert levels(installation.torch_and_device("cpu", gpu_is_here=True)) == ["ok", "ok"]


def test_a_device_that_does_not_compute_is_an_error() -> None:
    found = installation._computes("meta:0")
    assert found.level == "error" or installation._computes("nowhere").level == "error"


def test_a_port_in_use_is_named_with_its_process_and_fails_only_where_it_was_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (asked,) = host.ports([port], is_asked=True)
        assert asked.level == "error" and f"{port} is in use by process {os.getpid()} (" in asked.found
        assert levels(host.ports([port], is_asked=False)) == ["note"]
    assert levels(host.ports([port], is_asked=True)) == ["ok"]


class Clock:
    """Goes on by what it is told to whenever somebody sleeps."""

    def __init__(self, now: float, pace: float = 1.0) -> None:
        self.now, self.pace = now, pace

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds * self.pace


DAY = 1.8e9


@pytest.mark.parametrize(
    ("pace", "jump", "day", "level"),
    [
        *((1.0, 0.0, DAY, "ok"), (0.1, 0.0, DAY, "error"), (500.0, 0.0, DAY, "error")),
        *((1.0, 3.0, DAY, "warning"), (1.0, -3.0, DAY, "warning"), (1.0, 0.0, 1e6, "warning")),
    ],
)
def test_clocks_are_compared(pace: float, jump: float, day: float, level: str) -> None:
    monotonic, wall = Clock(5.0, pace), Clock(day, pace)

    def sleep(seconds: float) -> None:
        monotonic.sleep(seconds)
        wall.sleep(seconds)
        wall.now += jump

    assert levels(host.clocks(monotonic, wall, sleep)) == [level]


def test_too_few_open_files_are_told_with_the_command() -> None:
    assert levels(host.open_files((128, 4096))) == ["error"]
    assert levels(host.open_files((512, resource.RLIM_INFINITY))) == ["warning"]
    assert "ulimit -n 4096" in of(host.open_files((512, 4096))).remedy
    assert levels(host.open_files((1024, 1024))) == ["ok"]
    assert levels(host.open_files((resource.RLIM_INFINITY, resource.RLIM_INFINITY))) == ["ok"]


def test_little_shared_memory_is_told_with_dockers_option() -> None:
    assert levels(host.shared_memory(8 * GIB, 7 * GIB)) == ["ok"]
    assert "--shm-size" in of(host.shared_memory(64 << 20, 64 << 20)).remedy
    assert levels(host.shared_memory(8 * GIB, 1 << 20)) == ["warning"]  # full


def test_little_memory_and_a_single_core_are_told() -> None:
    assert levels(host.memory_and_cores(8 * GIB, 4)) == ["ok"]
    assert levels(host.memory_and_cores(GIB // 2, 4)) == ["warning"]
    assert levels(host.memory_and_cores(8 * GIB, 1)) == ["warning"]


def test_a_full_disk_is_told_by_bytes_and_by_files() -> None:
    assert disk.judge_space("runs", 50 * GIB, 10**6).level == "ok"
    assert disk.judge_space("runs", GIB, 10**6).level == "warning"
    assert disk.judge_space("runs", 10 << 20, 10**6).level == "error"
    assert "no inodes" in disk.judge_space("runs", 50 * GIB, 3).remedy


@pytest.mark.parametrize(
    ("kind", "level"), [("nfs4", "warning"), ("cifs", "warning"), ("fuse.sshfs", "warning"), ("tmpfs", "warning")]
)
def test_a_disk_that_is_not_local_or_not_lasting_is_told(kind: str, level: str) -> None:
    (found,) = disk.judge_kind("runs", kind)
    assert found.level == level and kind in found.found and "local disk" in found.remedy
    assert not list(disk.judge_kind("runs", "ext4"))


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    inner = tmp_path / "far" / "runs"
    inner.mkdir(parents=True)
    mounts = [("/", "overlay"), (str(tmp_path / "far"), "ext4"), (str(tmp_path / "far"), "nfs4"), ("/other", "xfs")]
    partitions = [SimpleNamespace(mountpoint=mount, fstype=kind) for mount, kind in mounts]
    assert disk.kind_of(inner, partitions) == "nfs4"  # mounted over the other
    assert disk.kind_of(tmp_path, partitions) == "overlay"
    assert disk.kind_of(tmp_path / "far-away", partitions) == "overlay"


def test_a_folder_is_tried_where_it_will_be_made_and_nothing_is_left_there(tmp_path: Path) -> None:
    found = list(disk.disk("runs", tmp_path / "a" / "b"))
    assert "locks, WAL and atomic moves work" in found[-1].found and not list(tmp_path.iterdir())


def test_a_file_in_the_way_and_a_read_only_place_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.os, "access", lambda path, mode: False)
    (found,) = disk.disk("runs", tmp_path)
    assert found.level == "error" and f"chmod u+w {tmp_path}" in found.remedy

    def no_lock(file: object, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(disk.fcntl, "flock", no_lock)
    assert disk._try("runs", tmp_path).level == "error" and not list(tmp_path.iterdir())


def test_keys_that_are_whole_are_well_and_their_absence_is_said(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    assert set(levels(connection.keys(tmp_path / "keys"))) == {"ok"}
    assert levels(connection.keys(tmp_path / "keys" / "boss.key")) == ["ok"]
    assert levels(connection.keys(None)) == ["note"]


def test_each_thing_that_is_wrong_with_keys_is_named(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert of(connection.keys(keys)).level == "error"
    keys.mkdir()
    assert "holds no key" in of(connection.keys(keys)).found
    keys.rmdir()
    make_keys(keys)
    (keys / "boss.key").chmod(0o644)
    found = of(connection.keys(keys))
    assert "mode 644" in found.found and found.remedy == f"chmod 600 {keys / 'boss.key'}"
    (keys / "boss.key").chmod(0o600)
    keys.chmod(0o777)
    assert of(connection.keys(keys)).remedy == f"chmod go-w {keys}"
    keys.chmod(0o700)
    (keys / "allowed.txt").chmod(0o666)
    assert "others can change it" in of(connection.keys(keys)).found


def test_keys_of_another_broker_or_off_the_list_are_named(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    broker = Key.read(tmp_path / "keys" / "broker.key").public
    Key.make("extra", broker).write(tmp_path / "keys" / "extra.key")
    found = of(connection.keys(tmp_path / "keys"))
    assert found.level == "warning" and "extra: is not on allowed.txt" in found.found
    (tmp_path / "keys" / "extra.key").unlink()
    Key.make("extra", Key.make("other").public).write(tmp_path / "keys" / "extra.key")
    assert "extra: names another broker's key" in of(connection.keys(tmp_path / "keys")).found


@pytest.mark.parametrize(("words", "told"), [(["--ports", "0"], "ports=0"), (["--timeout-s", "0"], "timeout_s=0.0")])
def test_options_are_checked(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) == 2 and re.search(f"error: {told}: must", capsys.readouterr().err)
