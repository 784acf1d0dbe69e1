"""``autoassist keys``: who may connect to a broker that was started with ``--keys``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from autoassist.roles import Flat, LogSettings
from protocol.errors import SettingError
from protocol.security import (
    ALLOW_LIST,
    BROKER,
    NAME,
    ROLES,
    Allowed,
    Key,
    read_allow_list,
    write_allow_list,
)
from protocol.settings import require

Role = Literal["assistant", "boss", "monitor"]
Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
DIR = Path("keys")


@dataclass(frozen=True, kw_only=True)
class InitKeys:
    """Make a directory of keys: the broker's, one for each role, and the allow-list."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = DIR
    """Where; it is made if need be."""
    keep: bool = False
    """Succeed where DIR has its keys already, and leave them as they are: for scripts that run more than once."""
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Returns the exit code."""
        if self.keep and (self.directory / ALLOW_LIST).exists():
            print(f"{self.directory} has its keys already")
            return 0
        make_keys(self.directory)
        print(f"{self.directory}: keys for the broker and for {', '.join(ROLES)}\n")
        print(f"  the broker's host needs  {self.directory / f'{BROKER}.key'} and {ALLOW_LIST}: broker --keys DIR")
        for role in ROLES:
            print(f"  {role + ':':<24} {self.directory / f'{role}.key'} alone: --keys FILE")
        return 0


@dataclass(frozen=True, kw_only=True)
class AddKey:
    """Make one more key, and allow it: a running broker lets it in at once."""

    name: Name
    roles: tuple[Role, ...]
    """What its holder may be."""
    keys: Path = DIR
    """Directory of keys."""
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Returns the exit code."""
        print(add_key(self.keys, self.name, self.roles))
        return 0


@dataclass(frozen=True, kw_only=True)
class RemoveKey:
    """Revoke a key: a running broker turns its holder away at once."""

    name: Name
    keys: Path = DIR
    """Directory of keys."""
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Returns the exit code."""
        remove_key(self.keys, self.name)
        print(f"{self.name} is revoked")
        return 0


@dataclass(frozen=True, kw_only=True)
class ListKeys:
    """Show who may connect."""

    keys: Path = DIR
    """Directory of keys."""
    log: Flat[LogSettings] = LogSettings()

    def execute(self) -> int:
        """Returns the exit code."""
        path = self.keys / ALLOW_LIST
        allowed = read_allow_list(path).values()
        print(f"{path}: {len(allowed) or 'nobody'} may connect to a broker with --keys {self.keys}")
        for one in allowed:
            print(f"{one.name:<20} {one.public}  {','.join(one.roles)}")
        return 0


KeysCommand = (
    Annotated[InitKeys, tyro.conf.subcommand("init")]
    | Annotated[AddKey, tyro.conf.subcommand("add")]
    | Annotated[RemoveKey, tyro.conf.subcommand("remove")]
    | Annotated[ListKeys, tyro.conf.subcommand("list")]
)


def make_keys(directory: Path) -> None:
    """The keys of a new run: the broker's, one for each role under its name, and the list that allows these.

    Raises SettingError where there are keys already, or the directory cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"{directory}: {error.strerror}; choose a directory that can be written") from None
    names = [ALLOW_LIST, *(f"{name}.key" for name in (BROKER, *ROLES))]
    there = [name for name in names if (directory / name).exists()]
    if there:
        raise SettingError(f"{directory}: holds {there[0]} already; choose another DIR, or --keep what is there")
    broker = Key.make(BROKER)
    broker.write(directory / f"{BROKER}.key")
    keys = {role: Key.make(role, broker.public) for role in ROLES}
    for role, key in keys.items():
        key.write(directory / f"{role}.key")
    write_allow_list(directory / ALLOW_LIST, [Allowed(role, key.public, (role,)) for role, key in keys.items()])


def add_key(directory: Path, name: str, roles: Sequence[str]) -> Path:
    """One more key and its line; returns the key's file.

    Raises SettingError for a name that is taken or none.
    """
    require(bool(roles), "roles", roles, f"are missing; give one or more of {', '.join(ROLES)}")
    is_name = NAME.fullmatch(name) is not None and name != BROKER
    require(is_name, "name", name, "must be up to 64 letters, digits, dots, dashes, beginning with a letter or digit")
    allowed = read_allow_list(directory / ALLOW_LIST)
    require(name not in {one.name for one in allowed.values()}, "name", name, "is on the allow-list; choose another")
    key = Key.make(name, Key.read(directory / f"{BROKER}.key").public)
    path = directory / f"{name}.key"
    key.write(path)
    line = Allowed(name, key.public, tuple(dict.fromkeys(roles)))
    write_allow_list(directory / ALLOW_LIST, [*allowed.values(), line])
    return path


def remove_key(directory: Path, name: str) -> None:
    """Take a key off the list, and its file away; copies of it are worth nothing then.

    Raises SettingError where the list has no such name.
    """
    allowed = read_allow_list(directory / ALLOW_LIST)
    left = [one for one in allowed.values() if one.name != name]
    require(len(left) < len(allowed), "name", name, "is not on the allow-list; keys list shows who is")
    write_allow_list(directory / ALLOW_LIST, left)
    (directory / f"{name}.key").unlink(missing_ok=True)
