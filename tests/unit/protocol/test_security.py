"""Key files: secret from their first moment, never overwritten, refused where others can read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protocol.errors import SettingError
from protocol.security import Allowed, Key, open_key, read_allow_list, write_allow_list

BROKER = Key.make("broker")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def one_key(folder: Path, name: str = "boss") -> Path:
    path = folder / f"{name}.key"
    Key.make(name, BROKER.public).write(path)
    return path


def test_a_key_that_is_written_is_read_again(tmp_path: Path) -> None:
    key = Key.make("boss", BROKER.public)
    key.write(tmp_path / "boss.key")
    assert Key.read(tmp_path / "boss.key") == key


def test_a_private_key_file_is_its_owner_s_alone_from_its_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    before, set_mode = os.umask(0), os.fchmod

    def seen(descriptor: int, wanted: int) -> None:
        modes.append(os.fstat(descriptor).st_mode & 0o777)
        set_mode(descriptor, wanted)

    monkeypatch.setattr(os, "fchmod", seen)
    try:
        path = one_key(tmp_path)
    finally:
        os.umask(before)
    assert modes == [0o600] and mode(path) == 0o600


def test_a_private_key_file_can_be_read_by_its_owner_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        path = one_key(tmp_path)
    finally:
        os.umask(before)
    assert mode(path) == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = one_key(tmp_path)
    content = path.read_bytes()
    with pytest.raises(SettingError, match=r"boss\.key: exists; a key is never overwritten, move it away first"):
        one_key(tmp_path)
    assert path.read_bytes() == content


def test_a_link_is_not_followed_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "boss.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingError, match="exists"):
        one_key(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_that_cannot_be_written_to_the_end_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        one_key(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o602, 0o777])
def test_a_private_key_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, bits: int) -> None:
    path = one_key(tmp_path)
    path.chmod(bits)
    with pytest.raises(SettingError, match=rf"boss\.key: others can .*\(mode {bits:o}\).*chmod 600 {path}"):
        Key.read(path)


def test_a_mounted_secret_may_be_read_through_the_group_but_by_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes mounts it with fsGroup: of root, mode 440, for a process that is not root."""
    path = one_key(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    path.chmod(0o440)
    assert Key.read(path).name == "boss"
    path.chmod(0o444)
    with pytest.raises(SettingError, match="others can read"):
        Key.read(path)


def test_the_secret_is_in_no_message(tmp_path: Path) -> None:
    key = Key.make("boss", BROKER.public)
    assert key.secret not in repr(key)
    path = tmp_path / "boss.key"
    key.write(path)
    path.write_text(path.read_text().replace(key.public, BROKER.public, 1))
    with pytest.raises(SettingError) as refused:
        Key.read(path)
    assert key.secret not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no line name ="),
        ("name = boss\n", "has no line public ="),
        (f"name = boss\npublic = {BROKER.public}\nsecret = short\n", "damaged, or not of one pair"),
        (f"name = boss\npublic = {Key.make('x').public}\nsecret = {BROKER.secret}\n", "not of one pair"),
        (f"name = b\npublic = {BROKER.public}\nsecret = {BROKER.secret}\nbroker = no\n", "damaged"),
        ("name = höss\n", "is not text"),
    ],
    ids=["empty", "torn", "short secret", "two pairs", "no broker key", "not ASCII"],
)
def test_a_file_that_is_no_key_is_named(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "boss.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(SettingError, match=rf"boss\.key: .*{says}"):
        Key.read(path)


def test_a_role_finds_its_key_in_the_directory_or_as_the_file(tmp_path: Path) -> None:
    path = one_key(tmp_path, "assistant")
    assert open_key(tmp_path, "assistant") == open_key(str(path), "boss") == Key.read(path)


def test_a_key_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"boss\.key: No such file.*autoassist keys init DIR"):
        open_key(tmp_path, "boss")


def test_the_broker_s_own_key_is_not_a_role_s(tmp_path: Path) -> None:
    BROKER.write(tmp_path / "broker.key")
    with pytest.raises(SettingError, match=r"is the broker's own key; give the file of the role, boss\.key"):
        open_key(tmp_path / "broker.key", "boss")


# The allow-list


def test_an_allow_list_that_is_written_is_read_again(tmp_path: Path) -> None:
    lines = [
        Allowed(name, Key.make(name).public, roles) for name, roles in (("a", ("boss",)), ("b", ("boss", "monitor")))
    ]
    write_allow_list(tmp_path / "allowed.txt", lines)
    assert list(read_allow_list(tmp_path / "allowed.txt").values()) == lines
    assert [path.name for path in tmp_path.iterdir()] == ["allowed.txt"] and mode(tmp_path / "allowed.txt") == 0o644


@pytest.mark.parametrize(
    "line",
    [
        "assistant",
        "assistant short boss",
        f"a {BROKER.public}",
        f"a {BROKER.public} king",
        f"../a {BROKER.public} boss",
    ],
    ids=["name alone", "no key", "no role", "unknown role", "no name"],
)
def test_a_bad_line_of_the_allow_list_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "allowed.txt"
    path.write_text(f"# all\n\n{line}\n")
    with pytest.raises(
        SettingError, match=r"allowed\.txt:3: give a name, a public key and roles out of assistant,boss"
    ):
        read_allow_list(path)


@pytest.mark.parametrize(
    "second", [f"other {BROKER.public} boss", f"one {Key.make('x').public} boss"], ids=["same key", "same name"]
)
def test_a_name_or_a_key_twice_is_refused(tmp_path: Path, second: str) -> None:
    path = tmp_path / "allowed.txt"
    path.write_text(f"one {BROKER.public} boss\n{second}\n")
    with pytest.raises(SettingError, match=r"allowed\.txt:2: .* is there twice"):
        read_allow_list(path)


def test_an_allow_list_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "allowed.txt"
    write_allow_list(path, [])
    path.chmod(0o664)
    with pytest.raises(SettingError, match=rf"others can change it \(mode 664\).*chmod go-w {path}"):
        read_allow_list(path)
