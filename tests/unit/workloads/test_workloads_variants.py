"""Rotated, wrongly labelled and imbalanced sets, and the validation part: fixed by ID, known by other fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoassist.roles import WorkloadSettings
from protocol.errors import SettingError
from workloads import load_workload, validate_workload
from workloads import variants as variants_module
from workloads.changes import (
    TURN_TEST,
    TURN_TRAIN,
    Pixels,
    angles,
    imbalanced,
    mislabelled,
    mislabelled_ids,
    turned,
    with_validation_part,
)
from workloads.digits import Digits
from workloads.fashion_mnist import FashionMnist
from workloads.images import ImageWorkload
from workloads.mnist import Mnist
from workloads.sources import ImageSet
from workloads.variants import ImbalancedFashionMnist, RotatedMnist, RotatedMnistNoisy

TRAIN, TEST = 600, 40


def plain_set() -> ImageSet:
    rng = np.random.default_rng(3)

    def images(count: int) -> Pixels:
        return rng.integers(0, 256, size=(count, 1, 7, 6), dtype=np.uint8)

    return ImageSet("plain", images(TRAIN), np.arange(TRAIN) % 10, images(TEST), np.arange(TEST) % 10, "made up")


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """What every source serves here."""
    found = plain_set()
    for workload in (Mnist, FashionMnist):
        monkeypatch.setattr(workload, "load_images", lambda self: found)
    return found


def test_a_quarter_turn_is_counter_clockwise_and_moves_pixels_alone() -> None:
    images = np.arange(2 * 3 * 5 * 5, dtype=np.uint8).reshape(2, 3, 5, 5)
    found = turned(images, np.array([90.0, -90.0]))
    assert np.array_equal(found[0], np.rot90(images[0], 1, axes=(1, 2)))
    assert np.array_equal(found[1], np.rot90(images[1], -1, axes=(1, 2)))


def test_no_turn_changes_nothing_for_even_and_odd_sides() -> None:
    images = plain_set().train_images
    assert np.array_equal(turned(images, np.zeros(len(images))), images)


def test_a_turned_image_is_the_bilinear_one_to_two_grey_levels() -> None:
    images, degrees = plain_set().train_images, angles(TURN_TRAIN, TRAIN)
    radians = torch.tensor(np.deg2rad(degrees))
    # torch's grid is in units of half a side, which differ for 7x6.
    cos, sin, zero, ratio = radians.cos(), radians.sin(), torch.zeros(TRAIN).double(), 7 / 6
    theta = torch.stack([torch.stack([cos, -sin * ratio, zero], 1), torch.stack([sin / ratio, cos, zero], 1)], 1)
    grid = nn.functional.affine_grid(theta, [TRAIN, 1, 7, 6], align_corners=False)
    expected = nn.functional.grid_sample(torch.tensor(images).double(), grid, align_corners=False)
    assert np.abs(turned(images, degrees).astype(float) - expected.numpy()).max() < 2.0


def test_angles_are_spread_over_ninety_degrees_both_ways_and_differ_in_the_test_part() -> None:
    train, test = angles(TURN_TRAIN, 10_000), angles(TURN_TEST, 10_000)
    assert -90.0 <= train.min() < -89.0 and 89.0 < train.max() <= 90.0
    assert abs(train.mean()) < 2.0 and not np.isclose(train, test).any()


def test_the_same_instance_is_turned_alike_on_every_host() -> None:
    """Roles on two hosts compare fingerprints; one grey level that differs would part them."""
    images = (np.arange(TRAIN * 42) * 37 % 256).astype(np.uint8).reshape(TRAIN, 1, 7, 6)
    found = turned(images, angles(TURN_TRAIN, TRAIN))
    assert hashlib.sha256(found.data).hexdigest()[:16] == "f09cbc0277cd0ff4"
    assert np.array_equal(angles(TURN_TRAIN, 5), angles(TURN_TRAIN, 500)[:5])


def test_a_rotated_set_has_its_test_part_turned_too(made_up: ImageSet) -> None:
    images = RotatedMnist().images
    assert np.array_equal(images.train_images, turned(made_up.train_images, angles(TURN_TRAIN, TRAIN)))
    assert np.array_equal(images.test_images, turned(made_up.test_images, angles(TURN_TEST, TEST)))
    assert np.array_equal(images.train_labels, made_up.train_labels)


def test_a_second_start_turns_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RotatedMnist().fingerprint()
    monkeypatch.setattr(variants_module, "turned", lambda *given: pytest.fail("turned again"))
    assert RotatedMnist().fingerprint() == first
    assert len(list((cache / "turned").iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"\0" * 300, b"PK\x03\x04" + b"\0" * 300, b"other shape"])
def test_a_damaged_turned_set_is_made_again(damage: bytes, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = RotatedMnist().fingerprint()
    for path in (cache / "turned").iterdir():
        path.write_bytes(damage)
        if damage == b"other shape":
            np.save(path, np.zeros((2, 2), np.uint8))
    assert RotatedMnist().fingerprint() == first
    assert "making it again" in caplog.text


def test_exactly_a_tenth_of_the_training_labels_is_wrong_and_named(made_up: ImageSet) -> None:
    workload = RotatedMnistNoisy()
    wrong = np.flatnonzero(workload.labels() != made_up.train_labels)
    assert np.array_equal(wrong, workload.mislabelled) and len(wrong) == TRAIN // 10
    assert np.array_equal(workload.images.test_labels, made_up.test_labels)
    assert workload.labels().min() >= 0 and workload.labels().max() <= 9


def test_wrong_labels_are_spread_over_all_other_classes() -> None:
    labels = np.full(20_000, 4, dtype=np.int64)
    labels[-1] = 9
    one = np.zeros((1, 1, 4, 4), np.uint8)
    found = mislabelled(ImageSet("x", np.broadcast_to(one, (20_000, 1, 4, 4)), labels, one, labels[:1], "made up"))
    counts = np.bincount(found.train_labels[mislabelled_ids(20_000)], minlength=10)
    assert counts[4] <= 1 and np.all(np.abs(np.delete(counts, 4) - 2000 / 9) < 60)


def test_one_class_is_whole_and_nine_are_thinned_to_a_twentieth_and_the_test_part_stays(made_up: ImageSet) -> None:
    images = imbalanced(made_up)
    assert np.bincount(images.train_labels).tolist() == [60] + [3] * 9
    where = [
        int(np.flatnonzero((made_up.train_images == image).all(axis=(1, 2, 3)))[0]) for image in images.train_images
    ]
    assert where == sorted(where) and np.array_equal(made_up.train_labels[where], images.train_labels)
    assert images.test_images is made_up.test_images and images.test_labels is made_up.test_labels
    assert ImbalancedFashionMnist().fingerprint().n == 87


def test_a_validation_part_is_a_sixth_of_the_training_part_and_the_test_part_is_gone(made_up: ImageSet) -> None:
    images = with_validation_part(made_up)
    assert (len(images.train_labels), len(images.test_labels)) == (500, 100)
    both = np.concatenate([images.train_images, images.test_images])
    rows = {image.tobytes() for image in both}
    assert rows == {image.tobytes() for image in made_up.train_images} and len(rows) == TRAIN
    assert 0 < np.count_nonzero(images.test_labels == 3) < 30
    assert np.array_equal(images.test_images, with_validation_part(plain_set()).test_images)


WORKLOADS: list[Callable[..., ImageWorkload]] = [
    Digits,
    Mnist,
    FashionMnist,
    RotatedMnist,
    RotatedMnistNoisy,
    ImbalancedFashionMnist,
]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_with_a_validation_part_it_is_another_set_and_another_metric(workload: Callable[..., ImageWorkload]) -> None:
    held_out, whole = workload(validation=True), workload()
    assert held_out.fingerprint().n < whole.fingerprint().n
    assert "less-validation" in held_out.fingerprint().dataset_id
    validate_workload(held_out)
    assert held_out.evaluate(held_out.boss(), torch.device("cpu")).name == "validation_accuracy"
    assert whole.evaluate(whole.boss(), torch.device("cpu")).name == "test_accuracy"


def test_the_validation_part_of_a_noisy_set_is_clean_and_that_of_an_imbalanced_one_whole(made_up: ImageSet) -> None:
    expected = with_validation_part(made_up).test_labels
    assert np.array_equal(RotatedMnistNoisy(validation=True).images.test_labels, expected)
    assert np.array_equal(ImbalancedFashionMnist(validation=True).images.test_labels, expected)


def test_no_two_of_the_sets_are_taken_for_one_another() -> None:
    known = [w(validation=v).fingerprint().dataset_id for w in WORKLOADS for v in (False, True)]
    known.remove(FashionMnist().fingerprint().dataset_id)  # both plain sets are the same here
    known.remove(FashionMnist(validation=True).fingerprint().dataset_id)
    assert len(set(known)) == len(known)


def test_the_command_line_s_switch_reaches_the_workload() -> None:
    workload = WorkloadSettings(validation=True).load("digits")
    assert isinstance(workload, Digits) and workload.validation


@pytest.mark.parametrize("name", ["adult", "table"])
def test_a_workload_without_the_choice_refuses_the_switch(name: str) -> None:
    with pytest.raises(
        SettingError, match=f"validation=True: workload {name} has no such part.*leave out --validation"
    ):
        load_workload(name, validation=True)
