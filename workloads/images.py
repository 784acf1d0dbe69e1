"""What the image workloads share: tensors, loss, evaluation, and pixel features for the Assistant."""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from workloads.base import FallBack, Fingerprint, Metric, Workload
from workloads.cache import cache_dir, file_lock, replacing
from workloads.changes import with_validation_part
from workloads.models import check_model, make_model
from workloads.sources import ImageSet, fall_back_of

log = logging.getLogger("autoassist.workloads")

FEATURES_VERSION = 1
"""Part of the cached file's name; raise it whenever the same images would give other features."""

_EVALUATION_BATCH = 250
"""Twice as fast as 1,000 on two CPU cores, since the activations stay in their caches."""

_FEATURE_ROWS = 4096


@dataclass(frozen=True)
class _Tensors:
    """An `ImageSet` as torch sees it. Images stay uint8: a quarter of the memory for some 20 µs a batch."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    shift: float
    """Mean of the training pixels, 0 … 255."""
    scale: float
    """One over their standard deviation."""

    def standardise(self, images: Tensor) -> Tensor:
        """uint8 pixels to float32 with mean 0 and deviation 1 over the whole training set."""
        return images.to(torch.float32).sub_(self.shift).mul_(self.scale)


class ImageWorkload(Workload):
    """Classification of small images: cross entropy, test accuracy, and standardised pixels as features.

    A subclass says where its images come from. A variant (rotated, noisy, imbalanced) subclasses a concrete set and
    returns a changed copy, under another name, from ``changed``; everything else, the fingerprint included, follows
    from the images themselves.

    With ``validation`` a sixth of the training part, always the same, is trained on no more and evaluated on instead of
    the test part: what is tuned, is tuned on that. It is held out of the set as it was served, before any change, so
    that a variant's wrong labels or thinned classes are not in it.
    """

    def __init__(self, *, model: str = "", data_dir: Path | None = None, validation: bool = False) -> None:
        super().__init__(model=model, data_dir=data_dir)
        check_model(model)
        self.validation = validation

    @abstractmethod
    def load_images(self) -> ImageSet:
        """Fetch or make the images; called once, on first use. DataError if there is no way to them."""

    def changed(self, images: ImageSet) -> ImageSet:
        """What a variant makes of them; by default nothing."""
        return images

    @cached_property
    def images(self) -> ImageSet:
        """The images, loaded on first use."""
        served = self.load_images()
        return self.changed(with_validation_part(served) if self.validation else served)

    @cached_property
    def classes(self) -> int:
        """Number of classes: the greatest label of the training part plus one."""
        return int(self.images.train_labels.max()) + 1

    @cached_property
    def _tensors(self) -> _Tensors:
        images = self.images
        train = _tensor(images.train_images)
        counts = torch.bincount(train.flatten(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64)
        mean = float((counts * values).sum() / counts.sum())
        deviation = float(((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt())
        return _Tensors(
            train_images=train,
            train_labels=_tensor(images.train_labels),
            test_images=_tensor(images.test_images),
            test_labels=_tensor(images.test_labels),
            shift=mean,
            scale=1.0 / max(deviation, 1e-6),
        )

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        digest = hashlib.sha256()
        digest.update(np.ascontiguousarray(self.images.train_images).data)
        digest.update(np.ascontiguousarray(self.images.train_labels.astype("<i8")).data)
        return Fingerprint(f"{self.images.name}-train:{digest.hexdigest()[:16]}", len(self.images.train_labels))

    def fingerprint(self) -> Fingerprint:
        """Name of the set that was served, hash of its training images and labels, and their number."""
        return self._fingerprint

    @property
    def fall_back(self) -> FallBack | None:
        """The small set that stands in, where nothing serves the images that were asked for."""
        return fall_back_of(self.images)

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images ``(len(ids), c, h, w)`` float32, standardised, and labels ``(len(ids),)`` int64; on the CPU."""
        tensors = self._tensors
        rows = torch.tensor(np.asarray(ids, dtype=np.int64))
        images = tensors.train_images.index_select(0, rows)
        return tensors.standardise(images), tensors.train_labels.index_select(0, rows)

    def boss(self) -> nn.Module:
        """The model that ``--model`` names, for this set's image size and number of classes."""
        _, channels, height, width = self.images.train_images.shape
        return make_model(self.model, channels=channels, height=height, width=width, classes=self.classes)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of each instance, nats, shape ``(batch,)``."""
        return F.cross_entropy(outputs, targets, reduction="none")

    def evaluate(self, boss: nn.Module, device: torch.device) -> Metric:
        """Fraction of the test images, or of the validation part, whose greatest logit is the label's."""
        tensors = self._tensors
        correct = torch.zeros((), dtype=torch.int64, device=device)
        with torch.no_grad():
            for start in range(0, len(tensors.test_labels), _EVALUATION_BATCH):
                images = tensors.test_images[start : start + _EVALUATION_BATCH].to(device)
                labels = tensors.test_labels[start : start + _EVALUATION_BATCH].to(device)
                correct += (boss(tensors.standardise(images)).argmax(dim=1) == labels).sum()
        part = "validation" if self.validation else "test"
        return Metric(f"{part}_accuracy", int(correct) / len(tensors.test_labels))

    def labels(self) -> NDArray[np.int64]:
        """Class of each training instance, shape ``(n,)``, read-only."""
        view = self.images.train_labels.view()
        view.flags.writeable = False
        return view

    def features(self) -> NDArray[np.float32]:
        """Standardised pixels, shape ``(n, c·h·w)`` float32: a read-only memory map of a file in the cache folder.

        Built once per data set, by whichever process comes first; the others wait for it and share its pages.
        """
        return self._features

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        identity = self.fingerprint().dataset_id.replace(":", "-")
        path = cache_dir() / "features" / f"{identity}-pixels-v{FEATURES_VERSION}.npy"
        count, *shape = self.images.train_images.shape
        expected = (count, int(np.prod(shape)))
        with file_lock(cache_dir() / "locks" / f"{path.stem}.lock"):
            mapped = _open_features(path, expected)
            if mapped is None:
                self._build_features(path, expected)
                mapped = np.load(path, mmap_mode="r")
        return mapped

    def _build_features(self, path: Path, shape: tuple[int, int]) -> None:
        log.info("%s: building pixel features, %.0f MB, once", self.images.name, shape[0] * shape[1] * 4 / 1e6)
        tensors = self._tensors
        # Plain writes: on a full disk they fail with an error, where writing through a map ends the process.
        with replacing(path) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, shape[0], _FEATURE_ROWS):
                rows = tensors.train_images[start : start + _FEATURE_ROWS]
                file.write(tensors.standardise(rows).flatten(1).numpy().data)


def _open_features(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    if not path.exists():
        return None
    try:
        mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        log.warning("%s is damaged (%s); building it again", path, error)
        return None
    if mapped.shape != shape or mapped.dtype != np.float32:
        log.warning("%s has shape %s, expected %s; building it again", path, mapped.shape, shape)
        return None
    return mapped


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """``array`` as a tensor: sharing its memory where torch can, which it cannot with a read-only one."""
    whole = np.ascontiguousarray(array)
    return torch.from_numpy(whole) if whole.flags.writeable else torch.tensor(whole)
