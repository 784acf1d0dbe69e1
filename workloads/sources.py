"""Where a data set comes from: sources asked in order, the first good one serves.

user's directory → cache → public mirrors → registry package → a small packaged set, which is not the same set.

A source answers with the archive's files or raises `SourceFailed` with a reason of one line; the next is tried.
Only damage to what the *user* gave is final: to go on without it would train on other data than he asked for.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.errors import DataError, StoreError
from workloads.base import FallBack
from workloads.cache import cache_dir, file_lock, sha256_hex, write_atomically
from workloads.idx import parse_idx, read_maybe_gzipped

log = logging.getLogger("autoassist.workloads")

FALL_BACK_VARIABLE = "AUTOASSIST_FALL_BACK"
"""Environment variable with the name of a set whose sources somebody has asked in vain already.

The small set is taken at once then. The launcher sets it for its roles: they search no second time, and cannot end on
another set than it did.
"""


def asked_already(fall_back: FallBack | None) -> dict[str, str]:
    """That variable for processes that are to take the same small set; nothing where the full one is served."""
    return {FALL_BACK_VARIABLE: fall_back.wanted} if fall_back is not None else {}


TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"

Files = Mapping[str, bytes]
"""Contents of an archive's files, unzipped, by file name."""


@dataclass(frozen=True)
class Archive:
    """A data set of files whose contents are known; an image set has four IDX files."""

    name: str
    """Built-in name of the set, for example ``fashion-mnist``."""

    sha256: Mapping[str, str]
    """SHA-256 of each file, unzipped, by file name: the same whoever packed it."""


@dataclass(frozen=True)
class ImageSet:
    """Images and labels in memory, split into training and test."""

    name: str
    """Name of the set that was really served; it goes into the fingerprint."""

    train_images: NDArray[np.uint8]
    """Shape ``(n, channels, height, width)``."""

    train_labels: NDArray[np.int64]
    """Shape ``(n,)``, values ``0 … classes-1``."""

    test_images: NDArray[np.uint8]
    """Shape ``(n_test, channels, height, width)``."""

    test_labels: NDArray[np.int64]
    """Shape ``(n_test,)``."""

    source: str
    """Who served it, for the log and the report."""

    instead_of: str = ""
    """Name of the set that it stands in for; "" where it is what was asked for."""

    @property
    def train_size(self) -> int:
        """Number of training instances."""
        return len(self.train_labels)


class SourceFailed(Exception):
    """A source cannot serve; the text is the reason. It never leaves this package."""


class NothingThere(SourceFailed):
    """A source has nothing yet, as an empty cache: worth a note, not a warning."""


class Source(Protocol):
    """Something that may have the files of an archive. Fakes in tests implement it too."""

    @property
    def name(self) -> str:
        """Short name for the log."""

    @property
    def keep(self) -> bool:
        """Whether what it serves is worth a copy in the cache."""

    def fetch(self, archive: Archive) -> Files:
        """All files of ``archive``, unzipped; the caller checks the hashes. SourceFailed with a reason otherwise."""


class Loaded(Protocol):
    """What is said of a set that was loaded; a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def name(self) -> str:
        """Name of the set that was really served."""

    @property
    def source(self) -> str:
        """Who served it."""

    @property
    def instead_of(self) -> str:
        """Name of the set that it stands in for; "" where it is what was asked for."""

    @property
    def train_size(self) -> int:
        """Number of training instances."""


L = TypeVar("L", bound=Loaded)


def load_images(archive: Archive, sources: Sequence[Source], small: Callable[[], ImageSet] | None = None) -> ImageSet:
    """An image set by `load_set`."""
    return load_set(archive, sources, lambda files, source: to_image_set(archive, files, source), small)


def load_set(
    archive: Archive, sources: Sequence[Source], read: Callable[[Files, str], L], small: Callable[[], L] | None = None
) -> L:
    """Ask ``sources`` in order, then ``small``; the log names who served and why the others did not.

    ``read`` makes the set of the files and the name of their source. One process asks at a time (a file lock in the
    cache folder), so roles that start together fetch once. Nobody is asked where `FALL_BACK_VARIABLE` names the set.

    Raises:
        DataError: a file of the user's is damaged, or nobody could serve.
        StoreError: the disk of the cache folder is so full that not even the lock can be made.
    """
    if small is not None and os.environ.get(FALL_BACK_VARIABLE) == archive.name:
        return _serve_small(archive, small, [f"not asked again, {FALL_BACK_VARIABLE}={archive.name}"])
    reasons: list[str] = []
    with file_lock(cache_dir() / "locks" / f"{archive.name}.lock"):
        for source in sources:
            try:
                files = source.fetch(archive)
                check_hashes(archive, files)
            except (SourceFailed, OSError) as failure:
                level = logging.INFO if isinstance(failure, NothingThere) else logging.WARNING
                log.log(level, "%s: %s did not serve: %s", archive.name, source.name, failure)
                reasons.append(f"{source.name}: {failure}")
                continue
            if source.keep:
                store_in_cache(archive, files)
            log.info("%s: served by %s", archive.name, source.name)
            return read(files, source.name)
    if small is None:
        raise DataError(f"{archive.name}: no source could serve it ({'; '.join(reasons)}); pass --data-dir")
    return _serve_small(archive, small, reasons)


def _serve_small(archive: Archive, small: Callable[[], L], reasons: Sequence[str]) -> L:
    try:
        found = small()
    except SourceFailed as failure:
        tried = "; ".join([*reasons, f"small set: {failure}"])
        raise DataError(f"{archive.name}: no source could serve it ({tried}); pass --data-dir") from failure
    log.warning(
        "%s: using the small set %s (%d training instances) from %s INSTEAD; its figures do not compare with %s's",
        archive.name,
        found.name,
        found.train_size,
        found.source,
        archive.name,
    )
    return dataclasses.replace(found, instead_of=archive.name)


def fall_back_of(loaded: Loaded) -> FallBack | None:
    """What stands in for the set that was asked for, if anything does."""
    return FallBack(wanted=loaded.instead_of, served=loaded.name) if loaded.instead_of else None


def check_hashes(archive: Archive, files: Files) -> None:
    """SourceFailed, naming the file and both hashes, unless ``files`` are exactly the archive's."""
    for name, expected in archive.sha256.items():
        if name not in files:
            raise SourceFailed(f"{name} is missing")
        found = sha256_hex(files[name])
        if found != expected:
            raise SourceFailed(f"{name} has SHA-256 {found}, expected {expected}")


def to_image_set(archive: Archive, files: Files, source: str) -> ImageSet:
    """Parse the four files; images become ``(n, 1, height, width)``, labels int64, both copies.

    Raises:
        DataError: a file is not valid IDX, or images and labels differ in number.
    """
    arrays = {name: parse_idx(files[name], where=f"{archive.name} {name}") for name in archive.sha256}
    for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS)):
        if arrays[images].ndim != 3 or arrays[labels].shape != arrays[images].shape[:1]:
            shapes = f"{arrays[images].shape} and {arrays[labels].shape}"
            raise DataError(f"{archive.name}: {images} and {labels} do not match, shapes {shapes}; fetch both again")
    return ImageSet(
        name=archive.name,
        train_images=arrays[TRAIN_IMAGES][:, None].copy(),
        train_labels=arrays[TRAIN_LABELS].astype(np.int64),
        test_images=arrays[TEST_IMAGES][:, None].copy(),
        test_labels=arrays[TEST_LABELS].astype(np.int64),
        source=source,
    )


def cached_path(archive: Archive, name: str) -> Path:
    """Where the cache keeps one file of an archive, unzipped."""
    return cache_dir() / "datasets" / archive.name / name


def store_in_cache(archive: Archive, files: Files) -> None:
    """Write each file whole; a full disk costs a warning, since the data is in memory already."""
    try:
        for name in archive.sha256:
            write_atomically(cached_path(archive, name), files[name])
    except (DataError, StoreError) as error:
        log.warning("%s: not kept in the cache: %s", archive.name, error)


@dataclass(frozen=True)
class CacheSource:
    """The cache folder. A damaged file is deleted, so that the next source replaces it."""

    name: str = "cache"
    keep: bool = False

    def fetch(self, archive: Archive) -> Files:
        """The cached files; SourceFailed after deleting a damaged one."""
        files: dict[str, bytes] = {}
        for name, expected in archive.sha256.items():
            path = cached_path(archive, name)
            if not path.is_file():
                raise NothingThere(f"{path} is not there yet")
            files[name] = path.read_bytes()
            if sha256_hex(files[name]) != expected:
                path.unlink()
                raise SourceFailed(f"{path} is damaged (wrong SHA-256); deleted, fetching again")
        return files


@dataclass(frozen=True)
class DirectorySource:
    """The user's own directory: the files in it, gzipped or not, or in a subfolder with the set's name.

    ``subfolders`` are further places to look in, such as torchvision's ``FashionMNIST/raw``.
    """

    folder: Path
    subfolders: tuple[str, ...] = ()
    keep: bool = False

    @property
    def name(self) -> str:
        """The directory as the user wrote it."""
        return f"--data-dir {self.folder}"

    def fetch(self, archive: Archive) -> Files:
        """The user's files.

        Raises:
            SourceFailed: none of the files is there.
            DataError: the directory is missing, or has some of the files only, or a file with another content.
        """
        if not self.folder.is_dir():
            raise DataError(f"--data-dir {self.folder}: no such directory; correct the path or leave it out")
        for folder in self._candidates(archive):
            found = {name: path for name in archive.sha256 if (path := _either(folder / name)) is not None}
            if found:
                return {name: self._read(archive, folder, name, found) for name in archive.sha256}
        raise SourceFailed(f"it has no {next(iter(archive.sha256))}[.gz]")

    def _candidates(self, archive: Archive) -> Iterator[Path]:
        yield self.folder
        for subfolder in (archive.name, *self.subfolders):
            yield self.folder / subfolder

    @staticmethod
    def _read(archive: Archive, folder: Path, name: str, found: Mapping[str, Path]) -> bytes:
        if name not in found:
            raise DataError(f"{folder / name}: missing beside the set's other files; add it or leave out --data-dir")
        content = read_maybe_gzipped(found[name])
        digest = sha256_hex(content)
        if digest != archive.sha256[name]:
            raise DataError(
                f"{found[name]}: SHA-256 of the content is {digest}, expected {archive.sha256[name]}: truncated or "
                f"not {archive.name}; replace the file or leave out --data-dir"
            )
        return content


def _either(path: Path) -> Path | None:
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.is_file():
            return candidate
    return None
