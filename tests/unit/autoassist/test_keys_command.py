"""``autoassist keys``: made once, added to, revoked."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoassist.cli import main
from autoassist.keys_command import add_key, make_keys, remove_key
from autoassist.run_command import RunCommand
from protocol.errors import SettingError
from protocol.security import Key, open_key, read_allow_list


def test_init_makes_a_usable_key_for_each_role(tmp_path: Path) -> None:
    keys = tmp_path / "new" / "keys"
    assert main(["keys", "init", str(keys)]) == 0
    broker = Key.read(keys / "broker.key")
    allowed = read_allow_list(keys / "allowed.txt")
    for role in ("assistant", "boss", "monitor"):
        key = open_key(keys, role)
        assert key.broker == broker.public and allowed[key.public].roles == (role,)
    assert broker.public not in allowed and not broker.broker
    assert keys.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in keys.iterdir() if path.stat().st_mode & 0o077] == ["allowed.txt"]


def test_init_twice_leaves_the_keys_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_keys(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["keys", "init", str(tmp_path)]) == 2
    assert "already; choose another DIR, or --keep what is there" in capsys.readouterr().err
    assert main(["keys", "init", str(tmp_path), "--keep"]) == 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_add_makes_a_key_with_its_line_and_remove_takes_both_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_keys(tmp_path)
    assert main(["keys", "add", "ann", "--roles", "boss", "monitor", "--keys", str(tmp_path)]) == 0
    path = tmp_path / "ann.key"
    assert capsys.readouterr().out.strip() == str(path) and path.stat().st_mode & 0o777 == 0o600
    key = Key.read(path)
    assert read_allow_list(tmp_path / "allowed.txt")[key.public].roles == ("boss", "monitor")
    assert main(["keys", "list", "--keys", str(tmp_path)]) == 0
    assert key.public in (listed := capsys.readouterr().out) and key.secret not in listed
    assert listed.startswith(f"{tmp_path / 'allowed.txt'}: 4 may connect")
    assert main(["keys", "remove", "ann", "--keys", str(tmp_path)]) == 0
    assert not path.exists() and len(read_allow_list(tmp_path / "allowed.txt")) == 3


@pytest.mark.parametrize("name", ["boss", "broker", "../ann", "", "a b"])
def test_a_name_that_is_taken_or_none_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    make_keys(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SettingError, match="name="):
        add_key(tmp_path, name, ["boss"])
    assert sorted(tmp_path.iterdir()) == before and len(read_allow_list(tmp_path / "allowed.txt")) == 3


def test_a_name_that_is_not_there_cannot_be_removed(tmp_path: Path) -> None:
    make_keys(tmp_path)
    with pytest.raises(SettingError, match="name=ann: is not on the allow-list"):
        remove_key(tmp_path, "ann")


def test_a_directory_without_keys_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"allowed\.txt: No such file.*autoassist keys init DIR"):
        add_key(tmp_path, "ann", ["boss"])


def test_run_gives_its_keys_to_every_role(tmp_path: Path) -> None:
    command = RunCommand(workload="digits", keys=tmp_path)
    words = [command._broker_arguments(tmp_path), *command._role_arguments("tcp://host:1", tmp_path).values()]
    assert [line[0] for line in words] == ["broker", "assistant", "boss"]
    for line in words:
        assert line[line.index("--keys") + 1] == str(tmp_path)


def test_run_refuses_keys_that_are_not_there_before_it_makes_anything(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"assistant\.key: No such file.*autoassist keys init"):
        RunCommand(workload="digits", keys=tmp_path)._require_possible()
